//! Measurements: deliveries to many, and what a connection weighs.

mod run;
mod section;
mod settings;

pub use self::run::measure;
pub use self::section::{Series, chart, put_chart, section};
pub use self::settings::Scenario;
