//! Removes what Ringway left in the kernel's network configuration.

use super::NetlinkError;

/// Removes our routes (protocol 82), our neighbor and the hostlink; returns a line for each thing removed.
///
/// # Errors
/// What is ours cannot be read or removed.
pub async fn cleanup() -> Result<Vec<String>, NetlinkError> {
    unimplemented!()
}
