//! Any text never panics the intake, costs bounded time, and leaves nothing behind.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ringway_model::manifest::{self, ParsedFile};
use ringway_model::{Compiler, Folder, Settings};

const SEED: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, labels: {a: b}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  externalIPs: [192.0.2.1]
  loadBalancerSourceRanges: ["10.0.0.0/8"]
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2, ipMode: VIP}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
ports: [&port {name: http, port: 8080}]
endpoints:
- addresses: [10.1.0.1]
  conditions: {ready: true, serving: null}
  nodeName: node-a
  hints: {forZones: [{name: east}]}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: node-a}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
"#;

/// Pieces that mean something to YAML or to us.
const TOKENS: [&str; 36] = [
    "---",
    "\n---\n",
    "...",
    "\n...\n",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "!x ",
    "| ",
    "> ",
    "\"",
    "'",
    "#",
    "%YAML 1.2\n",
    "\t",
    "\r\n",
    "\u{feff}",
    "\u{0}",
    "null",
    "~",
    "-1",
    "65536",
    "1e400",
    ".nan",
    "0x10",
    "10.0.0.1",
    "::1",
    "kind: ",
    "99999999999999999999999999",
];

fn take(text: &str) -> ParsedFile {
    let parsed = manifest::parse("a.yaml", text);
    let mut folder = Folder::default();
    let mut compiler = Compiler::new(Settings { node_name: "node-a".into(), ..Settings::default() });
    compiler.apply(folder.update(parsed.clone()));
    let shown: usize = folder.problems().iter().chain(&compiler.problems()).map(|problem| problem.to_string().len()).sum();
    assert_eq!(shown == 0, folder.problems().is_empty() && compiler.problems().is_empty());
    compiler.view();
    compiler.apply(folder.remove("a.yaml"));
    assert!(compiler.is_empty());
    parsed
}

fn config() -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { ProptestConfig { cases: 1000, ..default } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_is_read_or_named(text in any::<String>()) {
        take(&text);
    }

    #[test]
    fn any_tokens_are_read_or_named(tokens in proptest::collection::vec(proptest::sample::select(&TOKENS[..]), 0..40)) {
        take(&tokens.concat());
    }

    #[test]
    fn a_damaged_manifest_is_read_or_named(edits in proptest::collection::vec((0..SEED.len(), 0..12usize, proptest::sample::select(&TOKENS[..])), 1..6)) {
        let mut text = SEED.to_owned();
        for (at, removed, token) in edits {
            let at = text.floor_char_boundary(at.min(text.len()));
            let end = text.ceil_char_boundary((at + removed).min(text.len()));
            text.replace_range(at..end, token);
        }
        take(&text);
    }
}

#[test]
fn the_seed_is_right() {
    let parsed = take(SEED);
    assert_eq!((parsed.objects.len(), parsed.problems.len()), (3, 0));
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    let begin = Instant::now();
    let parsed = take(&text);
    assert!(parsed.unreadable && parsed.objects.is_empty());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), format!("kind: {}", "[".repeat(100_000))] {
        let parsed = take(&text);
        assert!(parsed.unreadable && parsed.problems.len() == 1);
    }
}

#[test]
fn a_huge_file_is_refused() {
    let parsed = take(&"#".repeat(manifest::FILE_BYTES_MAX + 1));
    assert!(parsed.unreadable);
    assert!(parsed.problems[0].to_string().contains("split it"), "{}", parsed.problems[0]);
}

/// The documents of a file are parsed one by one: their number costs no more than their size.
#[test]
fn many_documents_cost_linear_time() {
    let text = "---\nkind: Other\n".repeat(20_000);
    let begin = Instant::now();
    assert_eq!(manifest::parse("a.yaml", &text).problems.len(), 20_000);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
