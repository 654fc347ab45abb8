//! HTTP as a probe or scraper sees it.

use std::time::Duration;

use anyhow::{Context, Result};
use ringway_tests::lab::{Namespace, Process, wait_for};
use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Response {
    pub code: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// GET, whatever the code; an error if there is no answer within two seconds.
pub fn get(client: &Namespace, url: &str) -> Result<Response> {
    let text = client.exec(&["curl", "-sS", "-i", "--noproxy", "*", "--max-time", "2", url])?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no head: {text}"))?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("no code: {status}"))?;
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Response { code, headers: headers.collect(), body: body.to_owned() })
}

/// Somebody else's server on a port.
pub fn listen(namespace: &Namespace, port: u16) -> Result<Process> {
    let program = "import http.server, sys; http.server.HTTPServer(('0.0.0.0', int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()";
    let process = namespace.spawn("stranger", &["python3", "-c", program, &port.to_string()])?;
    wait_for("the stranger to listen", Duration::from_secs(5), || {
        namespace.exec(&["bash", "-c", &format!("echo > /dev/tcp/127.0.0.1/{port}")])
    })?;
    Ok(process)
}
