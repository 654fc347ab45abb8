//! When each watch was heard last: events and bookmarks alike, noted where their bytes arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The resources that are watched, as in URLs.
pub const RESOURCES: [&str; 5] = ["services", "endpointslices", "nodes", "servicecidrs", "pods"];

/// One time for each of [`RESOURCES`].
#[derive(Debug)]
pub struct Heard {
    start: Instant,
    /// Milliseconds since `start`, plus one; 0 = never.
    at_ms: [AtomicU64; RESOURCES.len()],
}

/// Notes for one resource.
#[derive(Clone, Debug)]
pub struct Ear {
    heard: Arc<Heard>,
    index: usize,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { start: Instant::now(), at_ms: Default::default() }
    }
}

impl Heard {
    /// For the resource of a URL's path.
    pub fn of(self: &Arc<Heard>, path: &str) -> Option<Ear> {
        let last = path.rsplit('/').next()?;
        let index = RESOURCES.iter().position(|resource| *resource == last)?;
        Some(Ear { heard: Arc::clone(self), index })
    }

    /// How long ago; `None` = never.
    pub fn age(&self, resource: &str) -> Option<Duration> {
        let index = RESOURCES.iter().position(|known| *known == resource)?;
        let at_ms = self.at_ms[index].load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(at_ms)))
    }
}

impl Ear {
    pub fn now(&self) {
        let ms = u64::try_from(self.heard.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.at_ms[self.index].store(ms + 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_resource() {
        let heard = Arc::new(Heard::default());
        assert!(heard.of("/api/v1/secrets").is_none());
        assert_eq!(heard.age("services"), None);
        heard.of("/prefix/api/v1/services").unwrap().now();
        assert!(heard.age("services").is_some_and(|age| age < Duration::from_secs(5)));
        assert_eq!(heard.age("nodes"), None);
    }
}
