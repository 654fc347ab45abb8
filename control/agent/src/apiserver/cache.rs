//! The last good objects on disk, so that a start without any apiserver has something to serve.
//!
//! One JSON value a line: a header, the objects, and a SHA-256 of all that stands before. Written beside and renamed over, so the file is
//! always whole; one that is not (a broken disk, a hand) is set aside, named, and no reason to stop.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use ringway_model::Model;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Of the format: of the header, and of what [`Model`] looks like in it. Another version's file is not read.
const VERSION: u32 = 2;

/// More than ten times what 100 000 endpoints need.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// First line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    ringway_objects: u32,
    /// Seconds since 1970.
    written_s: u64,
}

/// Last line.
#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    objects: u64,
    sha256: String,
}

/// What a file says.
#[derive(Debug, PartialEq)]
pub struct Cached {
    pub models: Vec<Model>,
    /// By the clock of the node when it was written; clocks jump.
    pub written: SystemTime,
}

/// Where it stands.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("objects.json")
}

/// Where a file is put that cannot be used.
pub fn set_aside_path(state_dir: &Path) -> PathBuf {
    state_dir.join("objects.json.corrupt")
}

/// Reads the file; `None` without one.
///
/// # Errors
/// It cannot be used: why, and where it lies now.
pub fn load(state_dir: &Path) -> anyhow::Result<Option<Cached>> {
    let path = path(state_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open the objects kept in {}", path.display())),
    };
    match read(file) {
        Ok(cached) => Ok(Some(cached)),
        Err(error) => {
            let aside = set_aside_path(state_dir);
            let moved = match std::fs::rename(&path, &aside) {
                Ok(()) => format!("it lies in {} now", aside.display()),
                Err(error) => format!("and cannot be set aside: {error}"),
            };
            Err(error).with_context(|| format!("the objects kept in {} cannot be used, {moved}", path.display()))
        }
    }
}

fn read(file: File) -> anyhow::Result<Cached> {
    let bytes = file.metadata()?.len();
    ensure!(bytes <= FILE_BYTES_MAX, "{bytes} bytes, more than the {FILE_BYTES_MAX} that are read");
    let mut lines = Lines { reader: BufReader::new(file), hash: Sha256::new(), line: Vec::new() };
    let header: Header = serde_json::from_slice(lines.next()?.context("the file is empty")?).context("the header")?;
    ensure!(header.ringway_objects == VERSION, "it has version {}, this is version {VERSION}", header.ringway_objects);
    let mut models = Vec::new();
    loop {
        // Before the line is taken in.
        let sum = format!("{:x}", lines.hash.clone().finalize());
        let line = lines.next()?.context("the end is missing")?;
        if line.starts_with(b"{\"objects\"") {
            let trailer: Trailer = serde_json::from_slice(line).context("the last line")?;
            ensure!(trailer.sha256 == sum && trailer.objects == models.len() as u64, "the checksum is not that of its content");
            if lines.next()?.is_some() {
                bail!("there is something after the end");
            }
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(header.written_s);
            return Ok(Cached { models, written });
        }
        let model = serde_json::from_slice(line).with_context(|| format!("object {}", models.len() + 1))?;
        models.push(model);
    }
}

struct Lines {
    reader: BufReader<File>,
    hash: Sha256,
    line: Vec<u8>,
}

impl Lines {
    fn next(&mut self) -> anyhow::Result<Option<&[u8]>> {
        self.line.clear();
        if self.reader.read_until(b'\n', &mut self.line).context("cannot read it")? == 0 {
            return Ok(None);
        }
        self.hash.update(&self.line);
        Ok(Some(&self.line))
    }
}

/// Replaces the file. Takes some tenths of a second for a large cluster.
///
/// # Errors
/// The disk refuses.
pub fn save(state_dir: &Path, models: &[Model]) -> anyhow::Result<()> {
    let path = path(state_dir);
    let new = state_dir.join("objects.json.new");
    let what = || format!("cannot keep the objects in {}", path.display());
    write(&new, models).with_context(what)?;
    std::fs::rename(&new, &path).with_context(what)?;
    // So that the new name survives a power cut, too.
    File::open(state_dir).and_then(|dir| dir.sync_all()).with_context(what)
}

fn write(path: &Path, models: &[Model]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut writer = Hashing { writer: BufWriter::new(file), hash: Sha256::new() };
    let written_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    serde_json::to_writer(&mut writer, &Header { ringway_objects: VERSION, written_s })?;
    writer.write_all(b"\n")?;
    for model in models {
        serde_json::to_writer(&mut writer, model)?;
        writer.write_all(b"\n")?;
    }
    let trailer = Trailer { objects: models.len() as u64, sha256: format!("{:x}", writer.hash.finalize()) };
    let mut file = writer.writer;
    serde_json::to_writer(&mut file, &trailer)?;
    file.write_all(b"\n")?;
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(())
}

struct Hashing {
    writer: BufWriter<File>,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_model::convert::{Converted, convert};
    use ringway_model::manifest::parse;

    fn models() -> Vec<Model> {
        let yaml = "apiVersion: v1\nkind: List\nitems:\n\
            - {apiVersion: v1, kind: Node, metadata: {name: node, labels: {topology.kubernetes.io/zone: z}}, spec: {podCIDRs: [10.0.0.0/24]},\n\
              \x20  status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}\n\
            - {apiVersion: v1, kind: Service, metadata: {name: s, namespace: d, creationTimestamp: '2026-01-01T00:00:00Z'},\n\
              \x20  spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, ports: [{port: 80, protocol: UDP}]}}\n\
            - {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: d, labels: {kubernetes.io/service-name: s}},\n\
              \x20  addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.7], hints: {forZones: [{name: z}]}}]}\n";
        let parsed = parse(yaml);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let model = |object| match convert(object) {
            Ok(Converted::Ours(model, _)) => model,
            other => panic!("{other:?}"),
        };
        parsed.objects.iter().map(|(_, object)| model(object)).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().is_none());
        save(dir.path(), &models()).unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().models, models());
        save(dir.path(), &models()[1..]).unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().models, models()[1..]);
        save(dir.path(), &[]).unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().models, []);
    }

    /// Fields that came later have a default: an update begins with what the version before has kept.
    #[test]
    fn objects_of_earlier_versions_are_read() {
        let models = models();
        let mut values = serde_json::to_value(&models).unwrap();
        let strip = |value: &mut serde_json::Value, kind: &str, fields: &[&str]| {
            let object = value[kind].as_object_mut().unwrap();
            fields.iter().for_each(|field| assert!(object.remove(*field).is_some(), "{kind} has no {field}"));
        };
        strip(&mut values[0], "Node", &["unreachable"]);
        strip(&mut values[1], "Service", &["reset_gone"]);
        strip(&mut values[2], "EndpointSlice", &["family"]);
        values[2]["EndpointSlice"]["endpoints"][0].as_object_mut().unwrap().remove("pod");
        assert_eq!(serde_json::from_value::<Vec<Model>>(values).unwrap(), models);
    }

    /// Every cut, and a flip of a bit at every place, is noticed, and the file set aside.
    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &models()).unwrap();
        let good = std::fs::read(path(dir.path())).unwrap();
        let check = |bytes: &[u8], what: &str| {
            std::fs::write(path(dir.path()), bytes).unwrap();
            let error = load(dir.path()).expect_err(what);
            assert!(format!("{error:#}").contains("objects.json.corrupt"), "{what}: {error:#}");
            assert_eq!(std::fs::read(set_aside_path(dir.path())).unwrap(), bytes);
            assert!(load(dir.path()).unwrap().is_none(), "set aside");
        };
        for at in 0..good.len() - 1 {
            check(&good[..at], "cut");
        }
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            check(&bytes, "flipped");
        }
        check(&[&good[..], b"more"].concat(), "longer");
        let other = String::from_utf8(good).unwrap().replace("\"ringway_objects\":2", "\"ringway_objects\":3");
        check(other.as_bytes(), "another version");
    }
}
