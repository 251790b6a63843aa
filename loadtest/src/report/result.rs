//! The result of a scenario.

/// The result of one scenario.
pub struct ScenarioResult {
    /// Its section of a page.
    pub section: String,
    /// Its chart as SVG, if it has one.
    pub chart: Option<String>,
    /// Whether no event was lost or repeated, every bound holds, and no ratio
    /// is worse.
    pub passed: bool,
    /// Targets and tools that were not measured. The section lacks their rows.
    pub left_out: Vec<String>,
}
