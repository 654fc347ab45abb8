//! Requests to rtnetlink, and its notifications.

use std::fmt;

/// A request to the kernel that failed: what was attempted, on what, and why.
#[derive(Debug)]
pub struct NetlinkError {
    attempt: String,
    source: std::io::Error,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.attempt, self.source)
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
