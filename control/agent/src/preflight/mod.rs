//! The preflight: everything that would keep `run` from working on this node, found before anything is touched.
//!
//! [`facts`] looks at the node, [`rules`] judges what was found, purely: each finding says what, why it matters and the remedy.

pub mod facts;
pub mod rules;

use std::fmt;
use std::process::ExitCode;

use crate::config::Config;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `run` would fail or lose traffic: it refuses to start.
    Error,
    /// It starts, but something will probably not work as wished.
    Warning,
    /// Good to know.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub what: String,
    pub why: String,
    /// A command or a flag where there is one; empty for a note that needs nothing.
    pub remedy: String,
}

impl Finding {
    pub fn new(severity: Severity, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { severity, what: what.into(), why: why.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    why:    {}", self.severity, self.what, self.why)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n    remedy: {}", self.remedy) }
    }
}

/// `ringway check`: prints all findings, worst first. Fails if one is an error.
pub fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(facts::gather(config))?;
    let findings = rules::judge(config, &facts);
    for finding in &findings {
        println!("{finding}");
    }
    println!("{}", summary(&findings));
    Ok(if errors(&findings) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many findings are errors.
pub fn errors(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.severity == Severity::Error).count()
}

/// The last line of `check`.
pub fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    let verdict = if errors == 0 { "ringway can run here" } else { "ringway cannot run here" };
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!("{verdict}: {}, {}, {}", plural(errors, "error"), plural(warnings, "warning"), plural(notes, "note"))
}
