//! Measurements: deliveries to many, and what a connection weighs.

mod rounds;
mod run;
mod section;
mod settings;

pub use self::rounds::run;
pub use self::settings::Scenario;
