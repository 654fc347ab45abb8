//! IPv6: what both families do, and what IPv4 has not.

use crate::bed::v6::*;
use crate::bed::*;
use crate::frames::*;
pub use headers::*;
pub use neighbors::who_has;

mod extensions;
mod headers;
mod neighbors;
#[path = "../stories.rs"]
mod stories;
mod too_big;
