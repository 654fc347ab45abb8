//! Loops of requests, and what became of them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::{Protocol, ask_sctp, ask_tcp, ask_udp, print_line};

/// What answered: `server client-address:port …`.
#[derive(Default)]
pub struct Seen {
    pub requests: u64,
    pub errors: u64,
    /// Of the errors, those that were told: a reset or a refusal, not silence.
    pub refused: u64,
    /// One that was not told, if there is any.
    pub first_error: Option<(bool, String)>,
    /// What one request took.
    pub longest: Duration,
    pub servers: BTreeMap<String, u64>,
    pub seen_as: BTreeMap<String, u64>,
}

impl Seen {
    pub fn note(&mut self, answer: Result<String>) {
        match answer {
            Ok(answer) => {
                self.requests += 1;
                let mut words = answer.split(' ');
                *self.servers.entry(words.next().unwrap_or_default().to_owned()).or_default() += 1;
                let address = words.next().unwrap_or_default().rsplit_once(':').map_or("", |(address, _)| address);
                let address = address.trim_matches(['[', ']']);
                *self.seen_as.entry(address.to_owned()).or_default() += 1;
            }
            Err(error) => {
                self.errors += 1;
                let is_told = is_refusal(&error);
                self.refused += u64::from(is_told);
                self.keep(Some((is_told, format!("{error:#}"))));
            }
        }
    }

    fn keep(&mut self, error: Option<(bool, String)>) {
        let Some((is_told, text)) = error else { return };
        if self.first_error.as_ref().is_none_or(|(was_told, _)| *was_told && !is_told) {
            self.first_error = Some((is_told, text));
        }
    }

    /// For people.
    pub fn example(&self) -> Option<&str> {
        self.first_error.as_ref().map(|(_, text)| text.as_str())
    }

    fn add(&mut self, other: Seen) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.refused += other.refused;
        self.longest = self.longest.max(other.longest);
        self.keep(other.first_error);
        for (name, count) in other.servers {
            *self.servers.entry(name).or_default() += count;
        }
        for (name, count) in other.seen_as {
            *self.seen_as.entry(name).or_default() += count;
        }
    }
}

fn is_refusal(error: &anyhow::Error) -> bool {
    let kind = error.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

/// What each request is.
pub struct Asking {
    pub protocol: Protocol,
    pub target: SocketAddr,
    /// Of TCP: for the connection, and again for the answer.
    pub patience: Duration,
}

impl Asking {
    fn ask(&self) -> Result<String> {
        match self.protocol {
            Protocol::Tcp => ask_tcp(self.target, 0, self.patience),
            Protocol::Udp => ask_udp(self.target, 0, 4),
            Protocol::Sctp => ask_sctp(self.target),
        }
    }
}

/// When loops of requests end: whatever comes first.
pub struct Until {
    pub for_ms: Option<u64>,
    pub requests: Option<u64>,
    /// The end of standard input.
    pub eof: bool,
}

/// `rate`: at most so many requests a second in all.
pub fn run(asking: &Asking, loops: u32, rate: Option<f64>, until: &Until) -> Result<()> {
    let start = Instant::now();
    let deadline = until.for_ms.map(|ms| start + Duration::from_millis(ms));
    let quota = until.requests.map(|requests| requests.div_ceil(u64::from(loops)));
    let is_over = Arc::new(AtomicBool::new(false));
    if until.eof {
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            // A read that fails is an end, too.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            is_over.store(true, Relaxed);
        });
    }
    let total = Mutex::new(Seen::default());
    let begun = AtomicU64::new(0);
    let wait_for_turn = || {
        if let Some(rate) = rate {
            let turn = start + Duration::from_secs_f64(begun.fetch_add(1, Relaxed) as f64 / rate);
            std::thread::sleep(turn.saturating_duration_since(Instant::now()));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..loops {
            scope.spawn(|| {
                let mut seen = Seen::default();
                while deadline.is_none_or(|deadline| Instant::now() < deadline)
                    && quota.is_none_or(|quota| seen.requests + seen.errors < quota)
                    && !is_over.load(Relaxed)
                {
                    wait_for_turn();
                    let begin = Instant::now();
                    seen.note(asking.ask());
                    seen.longest = seen.longest.max(begin.elapsed());
                }
                // A poisoned lock: another loop panicked, and the scope will say so.
                if let Ok(mut total) = total.lock() {
                    total.add(seen);
                }
            });
        }
    });
    let seen = total.into_inner().map_err(|_| anyhow::anyhow!("a loop of requests panicked"))?;
    print_line(
        &json!({"requests": seen.requests, "errors": seen.errors, "refused": seen.refused, "first_error": seen.example(),
            "longest_ms": seen.longest.as_secs_f64() * 1000.0, "seconds": start.elapsed().as_secs_f64(), "servers": seen.servers, "seen_as": seen.seen_as})
        .to_string(),
    )
}
