//! Any text never panics the intake, costs bounded time, and leaves nothing behind.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ringway_model::manifest::{FILE_BYTES_MAX, ManifestFile};
use ringway_model::{Compiler, Folder, Problem, Settings};

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

struct Taken {
    changes: usize,
    problems: Vec<Problem>,
}

/// Takes the text as a file, looks at all that is made of it, and takes it away again.
fn take(text: &str) -> Taken {
    let mut folder = Folder::default();
    let mut compiler = Compiler::new(Settings { node_name: "node-a".into(), ..Settings::default() });
    let changes = folder.update(ManifestFile { file: "a.yaml".into(), text: text.into() });
    let taken = Taken { changes: changes.len(), problems: folder.problems() };
    compiler.apply(changes);
    let shown = taken.problems.iter().chain(&compiler.problems()).all(|problem| !problem.to_string().is_empty());
    assert!(shown);
    compiler.view();
    compiler.apply(folder.remove("a.yaml"));
    assert!(compiler.is_empty());
    taken
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
    let taken = take(SEED);
    assert_eq!((taken.changes, taken.problems.len()), (3, 0));
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    let begin = Instant::now();
    let taken = take(&text);
    assert_eq!((taken.changes, taken.problems.len()), (0, 1));
    assert!(taken.problems[0].message.contains("YAML"), "{}", taken.problems[0]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), format!("kind: {}", "[".repeat(100_000))] {
        let taken = take(&text);
        assert_eq!((taken.changes, taken.problems.len()), (0, 1));
    }
}

#[test]
fn a_huge_file_is_refused_and_what_it_said_stays() {
    let mut folder = Folder::default();
    folder.update(ManifestFile { file: "a.yaml".into(), text: SEED.into() });
    assert_eq!(folder.update(ManifestFile { file: "a.yaml".into(), text: "#".repeat(FILE_BYTES_MAX + 1) }), []);
    assert!(folder.problems()[0].to_string().contains("split it"), "{}", folder.problems()[0]);
}

/// The documents of a file are parsed one by one: their number costs no more than their size.
#[test]
fn many_documents_cost_linear_time() {
    let text: String = (0..20_000).map(|number| format!("---\nkind: Other{number}\n")).collect();
    let begin = Instant::now();
    assert_eq!(take(&text).problems.len(), 20_000);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// Documents that stay are found again by their text; their places and problems move with them.
#[test]
fn documents_that_move_keep_their_objects_and_problems() {
    let wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 0}]}\n";
    let mut folder = Folder::default();
    let mut file = |text: String| {
        let changes = folder.update(ManifestFile { file: "a.yaml".into(), text });
        (changes.len(), folder.problems().iter().map(|problem| problem.line).collect::<Vec<_>>())
    };
    assert_eq!(file(format!("{SEED}---\n{wrong}")), (3, vec![Some(SEED.lines().count() as u64 + 1)]));
    assert_eq!(file(format!("---\n{wrong}---{SEED}")), (0, vec![Some(1)]));
    assert_eq!(file(format!("# moved\n\n---\n{wrong}---{SEED}")), (0, vec![Some(3)]));
}
