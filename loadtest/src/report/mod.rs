//! What was measured, as Markdown and SVG. Knows no scenario.

pub mod builds;
pub mod chart;
pub mod figures;
pub mod proof_report;
pub mod machine;
pub mod page;
pub mod result;
pub mod table;
