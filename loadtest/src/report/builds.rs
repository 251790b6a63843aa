//! Two sides that one run measured in turn, such as two builds of the gateway:
//! the ratio of each round, and a verdict.

use std::fmt::Write as _;

use super::figures::Spread;

/// The name of the other build in rows and parts.
pub const BESIDE: &str = "beside";

/// The fewest rounds for a verdict.
const ROUNDS_MIN: usize = 9;

/// The largest deviation of the median ratio from 1.
const TOLERANCE: f64 = 0.03;

/// Which way a figure improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A lower figure is better, such as a cost.
    Lower,
    /// A higher figure is better, such as a rate.
    Higher,
}

/// The verdict on the ratios of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The median is within the tolerance, or the range includes 1.
    Same,
    Better,
    Worse,
}

/// One figure of both sides.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    better: Better,
    ratios: Vec<f64>,
}

/// The ratios of some figures, by round.
#[derive(Clone, Debug)]
pub struct Ratios {
    label: String,
    figures: Vec<Figure>,
}

impl Figure {
    /// Takes the figure of both sides, by round.
    pub fn new(name: &str, better: Better, rounds: impl Iterator<Item = (f64, f64)>) -> Figure {
        let ratios = rounds.map(|(own, other)| own / other).filter(|ratio| ratio.is_finite());
        Figure { name: name.to_owned(), better, ratios: ratios.collect() }
    }

    fn verdict(&self) -> Option<Verdict> {
        let Spread { median, least, most } = Spread::of(self.ratios.clone())?;
        let is_near = (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&median);
        Some(match self.better {
            _ if is_near || (least..=most).contains(&1.0) => Verdict::Same,
            Better::Lower if median < 1.0 => Verdict::Better,
            Better::Higher if median > 1.0 => Verdict::Better,
            _ => Verdict::Worse,
        })
    }
}

impl Ratios {
    /// Takes the figures that have a ratio. `label` names the two sides.
    pub fn new(label: &str, figures: Vec<Figure>) -> Ratios {
        let figures = figures.into_iter().filter(|figure| !figure.ratios.is_empty()).collect();
        Ratios { label: label.to_owned(), figures }
    }

    /// Takes the figures of this build and the other one.
    pub fn of_builds(figures: Vec<Figure>) -> Ratios {
        Ratios::new(&format!("gateway / {BESIDE}"), figures)
    }

    fn rounds(&self) -> usize {
        self.figures.iter().map(|figure| figure.ratios.len()).min().unwrap_or(0)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.figures.iter().filter(|figure| figure.verdict() == Some(verdict)).count()
    }

    /// Returns whether no figure is worse. Too few rounds decide nothing.
    pub fn passed(&self) -> bool {
        self.rounds() < ROUNDS_MIN || self.count(Verdict::Worse) == 0
    }

    /// Returns a table with the ratio of each round, and the verdict.
    pub fn section(&self) -> String {
        let rounds = self.figures.iter().map(|figure| figure.ratios.len()).max().unwrap_or(0);
        let mut heads = vec![self.label.clone()];
        heads.extend((1..=rounds).map(|round| format!("round {round}")));
        heads.extend(["median", "least", "most", "verdict"].map(str::to_owned));
        let mut out = String::new();
        let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for figure in &self.figures {
            let mut cells = vec![figure.name.clone()];
            let ratio = |round: usize| {
                figure.ratios.get(round).map_or("–".to_owned(), |ratio| format!("{ratio:.3}"))
            };
            cells.extend((0..rounds).map(ratio));
            if let Some(Spread { median, least, most }) = Spread::of(figure.ratios.clone()) {
                cells.extend([median, least, most].map(|value| format!("{value:.3}")));
            }
            cells.push(match figure.verdict() {
                Some(Verdict::Same) => "same".to_owned(),
                Some(Verdict::Better) => "better".to_owned(),
                Some(Verdict::Worse) | None => "**worse**".to_owned(),
            });
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        let _ = write!(out, "\n{}\n", self.verdict_line());
        out
    }

    fn verdict_line(&self) -> String {
        let (rounds, all) = (self.rounds(), self.figures.len());
        let [same, better, worse] =
            [Verdict::Same, Verdict::Better, Verdict::Worse].map(|verdict| self.count(verdict));
        let counts = format!("{same} of {all} figures the same, {better} better, {worse} worse");
        let rule = format!(
            "the same: the median ratio is within {:.0} %, or the range includes 1",
            TOLERANCE * 100.0
        );
        if rounds < ROUNDS_MIN {
            return format!(
                "Verdict: none, since {rounds} rounds are fewer than {ROUNDS_MIN}; so far {counts} \
                 ({rule})."
            );
        }
        let word = if self.passed() { "passed" } else { "FAILED" };
        format!("Verdict: {word} over {rounds} rounds, {counts} ({rule}).")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, ratios: &[f64]) -> Figure {
        Figure::new("cost", better, ratios.iter().map(|&ratio| (ratio * 5.0, 5.0)))
    }

    #[test]
    fn a_figure_is_worse_if_its_median_and_its_range_are_away_from_1() {
        use Better::{Higher, Lower};
        let check = |better, ratios: &[f64], expected| {
            assert_eq!(figure(better, ratios).verdict(), expected, "{better:?} {ratios:?}");
        };
        check(Lower, &[1.02, 1.03, 1.04], Some(Verdict::Same));
        check(Lower, &[0.99, 1.2, 1.3], Some(Verdict::Same));
        check(Lower, &[1.01, 1.2, 1.3], Some(Verdict::Worse));
        check(Lower, &[0.8, 0.9, 0.95], Some(Verdict::Better));
        check(Higher, &[0.8, 0.9, 0.95], Some(Verdict::Worse));
        check(Higher, &[1.1, 1.2], Some(Verdict::Better));
        check(Higher, &[], None);
    }

    #[test]
    fn a_verdict_takes_nine_rounds() {
        let compare = |rounds| {
            let figures = vec![figure(Better::Lower, &vec![1.1; rounds])];
            Ratios::of_builds(figures)
        };
        assert!(compare(8).passed());
        assert!(compare(8).section().contains("Verdict: none, since 8 rounds"));
        assert!(!compare(9).passed());
        let section = compare(9).section();
        assert!(section.contains("| 1.100 | 1.100 | 1.100 | **worse** |\n"), "{section}");
        assert!(section.contains("Verdict: FAILED over 9 rounds, 0 of 1 figures the same"));
    }
}
