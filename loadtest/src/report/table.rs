//! A table of figures by row and round.

use std::fmt::Write as _;

use super::builds::{BESIDE, Better, Figure};
use super::figures::spread;
use super::machine::machine;

/// A column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its title, with the unit.
    pub title: &'static str,
    /// Which way the figure improves, if it is also given as a ratio.
    pub better: Option<Better>,
}

/// Returns a column that is also given as a ratio.
pub const fn compared(title: &'static str, better: Better) -> Column {
    Column { title, better: Some(better) }
}

/// Returns a column without a ratio.
pub const fn plain(title: &'static str) -> Column {
    Column { title, better: None }
}

/// Rows of figures.
pub struct Table {
    columns: &'static [Column],
    /// The row that the ratios refer to, for the heading of their columns.
    against: String,
    /// The faults that the last column counts, for its heading.
    faults: &'static str,
    rows: Vec<Row>,
    left_out: Vec<String>,
}

struct Row {
    name: String,
    base: Option<String>,
    rounds: Vec<Vec<f64>>,
    faults: u64,
}

impl Table {
    /// Creates a table without rows. The last column counts `faults`.
    pub fn new(columns: &'static [Column], against: &str, faults: &'static str) -> Table {
        Table {
            columns,
            against: against.to_owned(),
            faults,
            rows: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds a round to the row `name`. Its ratios refer to the row `base`. A
    /// missing figure is `NaN`.
    pub fn add(&mut self, name: &str, base: Option<&str>, figures: Vec<f64>, faults: u64) {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let (name, base) = (name.to_owned(), base.map(str::to_owned));
            self.rows.push(Row { name, base, rounds: Vec::new(), faults: 0 });
            self.rows.len() - 1
        });
        self.rows[at].rounds.push(figures);
        self.rows[at].faults += faults;
    }

    /// Adds to the faults of an existing row.
    pub fn add_faults(&mut self, name: &str, faults: u64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.faults += faults;
        }
    }

    /// Notes once that a target or tool is not installed.
    pub fn leave_out(&mut self, name: &str) {
        if !self.left_out.iter().any(|known| known == name) {
            self.left_out.push(name.to_owned());
        }
    }

    /// Returns the targets and tools that were left out.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Returns the compared figures of both builds, for each row of this build
    /// that has a row of the other.
    pub fn builds(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for row in &self.rows {
            let Some(rest) = row.name.strip_prefix("gateway") else { continue };
            let name = format!("{BESIDE}{rest}");
            let Some(other) = self.rows.iter().find(|other| other.name == name) else { continue };
            for (at, column) in self.columns.iter().enumerate() {
                let Some(better) = column.better else { continue };
                let rounds = row.rounds.iter().zip(&other.rounds);
                let label = format!("{} {}", rest.trim_start_matches([',', ' ']), column.title);
                let pairs = rounds.map(|(own, other)| (own[at], other[at]));
                figures.push(Figure::new(label.trim(), better, pairs));
            }
        }
        figures
    }

    /// Returns whether there are rows and no faults.
    pub fn has_no_faults(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.faults == 0)
    }

    /// Returns the section for a page: heading, command and table.
    pub fn section(&self, name: &str, about: &str, command: &str) -> String {
        let rounds = self.rows.iter().map(|row| row.rounds.len()).max().unwrap_or(0);
        let mut out = format!(
            "## {name}\n\n{}\n\n{}. `{command}`: {rounds} rounds, each row once a round; medians, \
             the least and the most in brackets.\n\n",
            about.trim(),
            machine()
        );
        let has_base = self.rows.iter().any(|row| row.base.is_some());
        let mut heads = vec![String::new()];
        for column in self.columns {
            heads.push(column.title.to_owned());
            if column.better.is_some() && has_base {
                heads.push(format!("× {}", self.against));
            }
        }
        heads.push(self.faults.to_owned());
        let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", self.cells(row, has_base).join(" | "));
        }
        for name in &self.left_out {
            let _ = write!(out, "\n{name} is left out, since it is not installed.\n");
        }
        out
    }

    fn cells(&self, row: &Row, has_base: bool) -> Vec<String> {
        let base = row.base.as_ref().and_then(|base| self.rows.iter().find(|r| r.name == *base));
        let mut cells = vec![row.name.clone()];
        for (at, column) in self.columns.iter().enumerate() {
            let figure = |round: &Vec<f64>| round.get(at).copied().unwrap_or(f64::NAN);
            cells.push(spread(row.rounds.iter().map(figure).collect()));
            if !(column.better.is_some() && has_base) {
                continue;
            }
            cells.push(base.map_or_else(String::new, |base| {
                let pairs = row.rounds.iter().zip(&base.rounds);
                spread(pairs.map(|(ours, theirs)| figure(ours) / figure(theirs)).collect())
            }));
        }
        cells.push(row.faults.to_string());
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::builds::Ratios;

    #[test]
    fn a_ratio_is_the_median_of_those_of_each_round() {
        let mut table = Table::new(
            const { &[compared("requests/s", Better::Higher), plain("p50 ms")] },
            "bare hyper",
            "failed",
        );
        for (ours, theirs) in [(90.0, 100.0), (40.0, 80.0), (70.0, 100.0)] {
            table.add("gateway", Some("bare hyper"), vec![ours, f64::NAN], 0);
            table.add("bare hyper", None, vec![theirs, 2.0], 0);
        }
        table.leave_out("nginx");
        let section = table.section("get-one", "one\n", "loadtest run get-one");
        let expected = "| gateway | 70.0 (40.0–90.0) | 0.70 (0.50–0.90) | – | 0 |\n\
             | bare hyper | 100 (80.0–100) |  | 2.00 (2.00–2.00) | 0 |\n\n\
             nginx is left out, since it is not installed.\n";
        assert!(section.starts_with("## get-one\n\none\n\n"), "{section}");
        assert!(section.contains("|  | requests/s | × bare hyper | p50 ms | failed |\n"));
        assert!(section.ends_with(expected), "{section}");
        assert!(table.has_no_faults());
    }

    #[test]
    fn faults_are_summed() {
        let mut table = Table::new(const { &[plain("MB/s")] }, "", "lost");
        assert!(!table.has_no_faults(), "nothing was measured");
        table.add("gateway", None, vec![1.0], 1);
        table.add("gateway", None, vec![1.0], 2);
        assert!(!table.has_no_faults());
        assert!(table.section("a", "b", "c").ends_with("| gateway | 1.00 (1.00–1.00) | 3 |\n"));
    }

    #[test]
    fn a_row_of_this_build_is_compared_with_that_of_the_other() {
        let mut table = Table::new(
            const { &[compared("requests/s", Better::Higher), plain("p50 ms")] },
            "",
            "failed",
        );
        table.add("gateway, 16", None, vec![90.0, 1.0], 0);
        table.add("beside, 16", None, vec![100.0, 1.0], 0);
        table.add("gateway, oha", None, vec![90.0, 1.0], 0);
        let section = Ratios::of_builds(table.builds()).section();
        assert!(section.contains("| 16 requests/s | 0.900 | 0.900 |"), "{section}");
        assert!(!section.contains("oha") && !section.contains("p50"), "{section}");
    }
}
