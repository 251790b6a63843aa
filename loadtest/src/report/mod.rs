//! Reports as Markdown and SVG. This module knows no scenario.

pub mod builds;
pub mod chart;
pub mod figures;
pub mod proof_report;
pub mod machine;
pub mod page;
pub mod result;
pub mod table;
