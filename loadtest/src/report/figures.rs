//! Figures as text, and their medians.

/// The median of some values, and their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least value.
    pub least: f64,
    /// The greatest value.
    pub most: f64,
}

impl Spread {
    /// Returns the spread of the finite values. `None` if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median, least, most })
    }
}

/// Formats the median, and the range if there are several values.
pub fn spread(values: Vec<f64>) -> String {
    let is_one = values.iter().filter(|value| value.is_finite()).count() == 1;
    match Spread::of(values) {
        None => "–".to_owned(),
        Some(Spread { median, .. }) if is_one => short(median),
        Some(Spread { median, least, most }) => {
            format!("{} ({}–{})", short(median), short(least), short(most))
        }
    }
}

/// Formats a value with about three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        huge if huge >= 1e6 => format!("{:.2}M", value / 1e6),
        large if large >= 1e4 => format!("{:.0}k", value / 1e3),
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Returns the median. Of an even number of values, the upper of the two in the
/// middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_its_bounds() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), "2.00 (1.00–3.00)");
        assert_eq!(spread(vec![1.0, 2.0]), "1.50 (1.00–2.00)");
        assert_eq!(spread(vec![1_234_567.0]), "1.23M");
        assert_eq!(spread(Vec::new()), "–");
    }
}
