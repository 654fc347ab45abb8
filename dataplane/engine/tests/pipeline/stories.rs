//! What both families do alike.

use super::*;

mod affinity;
mod answers;
mod bonds;
mod classes;
mod forged;
mod fragments;
mod limits;
mod properties;
mod quotes;
mod refusals;
mod sctp;
