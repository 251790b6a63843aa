//! The report of a proof.

use std::fmt::Write as _;

use super::figures::short;
use super::machine::machine;

/// The bounds that a proof checked, and its tables.
#[derive(Debug, Default)]
pub struct ProofReport {
    checks: Vec<Check>,
    tables: Vec<String>,
}

#[derive(Debug)]
struct Check {
    what: String,
    found: String,
    bound: String,
    holds: bool,
}

impl ProofReport {
    /// Creates an empty report.
    pub fn new() -> ProofReport {
        ProofReport::default()
    }

    /// Adds what was found, and whether it is within its bound.
    pub fn check(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        bound: impl Into<String>,
        holds: bool,
    ) {
        let (what, found, bound) = (what.into(), found.into(), bound.into());
        eprintln!("  {} {what}: {found} (bound: {bound})", if holds { "holds" } else { "FAILS" });
        self.checks.push(Check { what, found, bound, holds });
    }

    /// Adds a number that must not exceed `bound`.
    pub fn at_most(&mut self, what: impl Into<String>, found: f64, bound: f64, unit: &str) {
        let found_text = format!("{} {unit}", short(found)).trim().to_owned();
        let bound_text = format!("≤ {} {unit}", short(bound)).trim().to_owned();
        self.check(what, found_text, bound_text, found <= bound);
    }

    /// Adds a count that must equal `bound`.
    pub fn exactly(&mut self, what: impl Into<String>, found: u64, bound: u64) {
        self.check(what, found.to_string(), bound.to_string(), found == bound);
    }

    /// Adds a table.
    pub fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) {
        self.tables.push(table(heads, rows));
    }

    /// Returns whether every bound holds.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    /// Returns the section for a page.
    pub fn section(&self, name: &str, about: &str, command: &str) -> String {
        let mut out = format!("## {name}\n\n{}\n\n{}. {command}.\n", about.trim(), machine());
        let row = |check: &Check| {
            let Check { what, found, bound, holds } = check;
            let held = if *holds { "yes" } else { "**no**" };
            vec![what.clone(), found.clone(), bound.clone(), held.to_owned()]
        };
        let checks: Vec<Vec<String>> = self.checks.iter().map(row).collect();
        if !checks.is_empty() {
            let _ = write!(out, "\n{}", table(&["what", "found", "bound", "held"], &checks));
        }
        for table in &self.tables {
            let _ = write!(out, "\n{table}");
        }
        out
    }
}

fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bound_that_fails_fails_all() {
        let mut report = ProofReport::new();
        report.at_most("p99", 1.5, 2.0, "ms");
        assert!(report.passed());
        report.exactly("lost", 1, 0);
        assert!(!report.passed());
        report.table(&["a", "b"], &[vec!["1".to_owned(), "2".to_owned()]]);
        let section = report.section("name", "About.\n", "`loadtest run name`");
        for expected in [
            "## name\n\nAbout.\n\n",
            "`loadtest run name`.\n\n| what | found | bound | held |\n|---|---|---|---|\n",
            "| p99 | 1.50 ms | ≤ 2.00 ms | yes |\n| lost | 1 | 0 | **no** |\n",
            "\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        ] {
            assert!(section.contains(expected), "{section}");
        }
    }
}
