//! Benchmarks of Forebay, beside the floors and the baselines of the same host in the same run.
//!
//! `cargo xtask bench --smoke` runs all of it and writes a table. Figures differ from host to host; what holds is their
//! ratio to the floors.
//!
//! | module | holds |
//! | --- | --- |
//! | [`profile`] | how much is measured |
//! | [`gate`] | whether the machine is quiet enough for a sample to count |
//! | [`sample`] | figures out of samples |
//! | [`packets`] | nanoseconds per packet through the kernel's programs, above the floor programs |
//! | [`connect`] | latency of a new connection, through Forebay and through an iptables chain |
//! | [`iptables`] | that chain |
//! | [`catalogue`] | the services that every way is given |
//! | [`collector`] | what the collector costs with a full conntrack |
//! | [`control`] | services through a controller into tables |
//! | [`estimates`] | what criterion found in `benches/` |
//! | [`machine`], [`report`] | what was measured on, and the results as a table and as JSON |

mod additions;
pub mod catalogue;
pub mod collector;
pub mod connect;
pub mod control;
pub mod estimates;
pub mod gate;
pub mod iptables;
pub mod machine;
pub mod packets;
pub mod profile;
pub mod report;
pub mod sample;
