//! IPv4: what both families do, and what IPv6 has not.

use crate::bed::v4::*;
use crate::bed::*;
use crate::frames::*;
pub use headers::*;

mod division;
mod headers;
mod options;
#[path = "../stories.rs"]
mod stories;
