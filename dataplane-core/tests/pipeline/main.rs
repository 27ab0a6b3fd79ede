//! The pipeline told as stories: frames through a host in memory, with services filled in by hand.
//!
//! What comes out is read by the testkit's `Dissected`, which shares no code with the pipeline, and held against
//! expectations that stand in each story.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod addresses;
mod affinity;
mod answers;
mod choices;
mod connections;
mod errors;
mod events;
mod floods;
mod fragments;
mod frames;
mod guards;
mod host;
mod masquerade;
mod siege;
