//! What tests and the quickstart of Forebay stand on: real networks, frames and scenarios.
//!
//! | module | holds |
//! | --- | --- |
//! | [`child`] | other programs, with a limit on how long they take |
//! | [`conformance`] | what every store must do: tables alone, and with a controller on them |
//! | [`faulty`] | tables of which one write in so many fails |
//! | [`witness`] | tables that are read after each write, by readers under way |
//! | [`frames`] | frames built and taken apart, byte by byte |
//! | [`fill`] | tables filled by hand, for tests of packets alone |
//! | [`maglev`] | Maglev tables made slowly and obviously, to hold the fast way to |
//! | [`net`] | network namespaces joined by veth, sockets for scenarios, kernel counters, topologies |
//! | [`pins`] | a directory for pins, gone with the test |
//! | [`Raise`] | the end of threads that go on until then |

pub mod child;
pub mod conformance;
pub mod faulty;
pub mod fill;
pub mod frames;
pub mod maglev;
pub mod net;
pub mod pins;
mod raise;
pub mod witness;

pub use raise::Raise;
