//! What the fuzz targets do with their input, and what must hold then.
//!
//! | module | holds |
//! | --- | --- |
//! | [`events`] | records of events: what is one is the same bytes when it is written anew |
//! | [`frame`] | one host, one frame of arbitrary bytes, every hook |
//! | [`pins`] | tables with arbitrary damage, and a controller that goes on from them |
//! | [`sequence`] | operations on a controller and a host, against a model of who serves whom |
//! | [`yaml`] | documents: they never panic, and what parses says the same again when it is written anew |
//! | [`check`] | what holds for every frame and every table |
#![forbid(unsafe_code)]

pub mod check;
pub mod events;
pub mod frame;
pub mod pins;
pub mod sequence;
pub mod yaml;
