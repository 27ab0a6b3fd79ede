//! The dataplane in RAM: the same tables, the same pipeline, no kernel and no privileges.
//!
//! [`MemoryTables`] enforces the capacities and failures of the kernel's maps. A [`Simulator`] gives it interfaces,
//! routes, a clock and randomness, and runs frames through the pipeline of each hook.
//!
//! ```
//! use std::sync::Arc;
//! use dataplane_core::{memory::{MemoryTables, SimulatedInterface, Simulator}, pipeline::{Hook, Verdict}, tables::Capacity};
//!
//! let mut simulator = Simulator::new(Arc::new(MemoryTables::new(Capacity::default())));
//! simulator.add_interface(SimulatedInterface::new(2, [2, 0, 0, 0, 0, 2]))?;
//! let outcome = simulator.run(Hook::Ingress, 2, &[0; 60]);
//! assert!(matches!(outcome.verdict, Verdict::Pass(_)));
//! # Ok::<(), dataplane_core::tables::TableError>(())
//! ```

mod clock_table;
mod environment;
mod events;
mod flows;
mod hash;
mod packet;
mod routes;
mod simulator;
mod tables;
#[cfg(test)]
mod torn;
mod words;

pub use events::MemoryEvents;
pub use packet::MemoryPacket;
pub use routes::{RouteTable, Target};
pub use simulator::{Outcome, SimulatedInterface, Simulator};
pub use tables::MemoryTables;
