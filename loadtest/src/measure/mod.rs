//! Measurements: the cost and latency of deliveries, and the memory of
//! connections.

mod rounds;
mod run;
mod section;
mod settings;

pub use self::rounds::run;
pub use self::settings::Scenario;
