//! What happens to a packet: parse, decide, route, commit, translate. Written once, compiled for the kernel and for
//! the host; the outside world is an argument.
//!
//! ```text
//! parse(packet)           -> Headers      bounds-checked
//! decide(headers, env)    -> Decision     a verdict, or a translation and the table writes it wants
//! route(decision, env)    -> Route        next hop, or why there is none
//! commit(decision, env)                   a connection opened or refreshed
//! translate(packet), send(packet)         the only part that differs from hook to hook
//! ```
//!
//! [`process`] is the whole of it; in the kernel it is parted into programs, one for each [`Stage`].
//!
//! Cost, in operations on hash tables, none of which depends on the number of services, backends or flows:
//!
//! | a packet | lookups | insertions |
//! | --- | --- | --- |
//! | of a confirmed flow | 1, and once a second 2 more, which keep both entries alive | |
//! | of a flow that is not confirmed | 2 | |
//! | that confirms a flow | 6 at most | 2 |
//! | of no flow and no service | 3 of a SYN, else 4; 1 more where unserved ports are dropped | |
//! | that opens a flow | the same, and 2 more for replies that stand in its way | 2 |
//! | that opens a flow whose source is translated | the same, and 1 for each port that is tried, 32 at most | 2 |
//!
//! To a port that source NAT may lend a packet takes one more, unless it is the reply of a flow there: that takes one. The first
//! packet to a service with affinity takes two more.

mod address;
mod affinity;
mod answer;
mod budget;
mod collect;
mod commit;
mod decide;
mod environment;
mod event;
mod fragment;
mod headers;
mod packet;
mod port_range;
mod process;
mod quote;
mod reserve;
mod route;
mod seen;
mod stage;
mod time;
mod translate;
mod transport;
mod verdict;
mod workspace;

pub use address::AddressSettings;
pub use answer::AnswerFamily;
pub use budget::Budget;
pub use collect::{Fate, Revoked, collect, is_suspect};
pub use decide::Direction;
pub use environment::{Backend, Environment, Steps};
pub use event::{CloseReason, DropRecord, EventRecord, EventSink, FlowRecord};
pub use fragment::Part;
pub use headers::{Headers, Link, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, ParseFamily};
pub use packet::{ApplyError, HopLimit, Packet};
pub use process::{begin, process, resume};
pub use quote::{ErrorTranslation, Quote, QuotedHeader};
pub use route::{Gateway, LinkAddresses, NextHop, Route, RouteQuery, Routes};
pub use seen::Seen;
pub use stage::{Stage, Step};
pub use time::{Tick, Timeouts};
pub use translate::{translate_error_in_place, translate_in_place, translate_network_in_place};
pub use verdict::{Action, AnswerReason, DropReason, Hook, LeaveReason, PassReason, Verdict, VerdictNumber};
pub use workspace::Workspaces;
