//! Plain values to a typed object, with the paths of what does not fit.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

/// The typed object, or the path of the field that does not fit and why. Fields that the type does not have are added to `unknown`:
/// kubectl would not let a misspelt field pass either.
pub(super) fn typed<T: DeserializeOwned>(value: Value, unknown: &mut Vec<String>) -> Result<T, (String, String)> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    match serde_ignored::deserialize(tracked, |path: Path<'_>| unknown.push(render(&path))) {
        Ok(object) => Ok(object),
        Err(error) => Err((track.path().to_string(), error.to_string())),
    }
}

/// Like `spec.ports[0].name`, as serde_path_to_error writes it.
fn render(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", render(parent)),
        Path::Map { parent: Path::Root, key } => key.clone(),
        Path::Map { parent, key } => format!("{}.{key}", render(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => render(parent),
    }
}
