//! IPv4: what both families do, and what IPv6 has not.

use crate::bed::v4::*;
use crate::bed::*;
use crate::frames::*;
pub use headers::*;
pub use neighbors::who_has;

mod division;
mod headers;
mod neighbors;
mod options;
#[path = "../stories.rs"]
mod stories;
