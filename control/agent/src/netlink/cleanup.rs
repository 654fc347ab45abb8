//! Removes what Ringway left in the kernel's network configuration.

use netlink_packet_route::RouteNetlinkMessage as Message;

use super::socket::Requests;
use super::{NetlinkError, ROUTE_PROTOCOL, RW0, RW1, hostlink, routes};

/// Removes our routes (protocol 82), our neighbors and the hostlink; returns a line for each kind of thing removed, none if nothing
/// was left. A device that merely has one of our names is an error, and stays.
///
/// # Errors
/// What is ours cannot be read or removed.
pub async fn cleanup() -> Result<Vec<String>, NetlinkError> {
    let mut requests = Requests::open()?;
    let mut removed = Vec::new();

    let routes = routes::ours(&mut requests).await?;
    let count = routes.len();
    for result in routes::remove(&mut requests, routes).await? {
        match result {
            // Somebody was quicker: the device went, and its routes with it.
            Err(error) if error.errno() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    if count > 0 {
        removed.push(format!("{count} routes of protocol {ROUTE_PROTOCOL}"));
    }

    if let Some((rw0, rw1)) = hostlink::find(&mut requests).await? {
        for gateway in hostlink::GATEWAYS {
            let neighbor = hostlink::gateway_neighbor(rw1.ifindex, gateway);
            let attempt = format!("remove the neighbor {gateway} on {RW1}");
            match requests.request(&attempt, Message::DelNeighbour(neighbor), 0).await {
                Ok(_) => removed.push(format!("neighbor {gateway} on {RW1}")),
                // The second where the node has no IPv6.
                Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => {}
                Err(error) => return Err(error),
            }
        }
        hostlink::delete(&mut requests, rw0.ifindex).await?;
        removed.push(format!("veth pair {RW0}/{RW1}"));
    }
    Ok(removed)
}
