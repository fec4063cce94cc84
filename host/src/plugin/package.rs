//! The plugin file: a component with exactly one custom section `leadwire:manifest`, packed last.

use std::borrow::Cow;
use std::path::Path;

use sha2::{Digest, Sha256};
use wasmparser::{Encoding, Parser, Payload, Validator};

use super::PluginError;
use super::manifest::{self, Manifest};

/// Largest plugin file in bytes.
pub const MAX_FILE_BYTES: usize = 32 << 20;

/// A plugin file that has been looked through, not yet compiled.
#[derive(Debug)]
pub struct Package {
    #[allow(missing_docs)]
    pub manifest: Manifest,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// The whole file.
    pub bytes: Vec<u8>,
}

fn refused(reason: impl Into<String>) -> PluginError {
    PluginError::Refused(reason.into())
}

/// Reads a plugin file: size, wasm validity, component, one manifest section, a manifest that makes sense.
pub fn read(bytes: Vec<u8>) -> Result<Package, PluginError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(refused(format!("the file has {} bytes; a plugin has at most {MAX_FILE_BYTES}", bytes.len())));
    }
    let section = find_section(&bytes)?;
    Validator::new_with_features(wasmparser::WasmFeatures::default())
        .validate_all(&bytes)
        .map_err(|e| refused(format!("not valid WebAssembly: {e}")))?;
    let manifest = parse_manifest(&section)?;
    manifest.check().map_err(|problems| refused(problems.join("; ")))?;
    Ok(Package { manifest, digest: Sha256::digest(&bytes).into(), bytes })
}

/// The manifest's JSON in a component, without running or validating anything else.
fn find_section(bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(refused("not a WebAssembly file (its first bytes are not `\\0asm`)"));
    }
    let mut found: Option<Vec<u8>> = None;
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| refused(format!("not a whole WebAssembly file: {e}")))? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(refused("a core module, not a component: pack it with `leadwire channel pack`"));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == manifest::SECTION => {
                if section.data().len() > manifest::MAX_BYTES {
                    return Err(refused(format!("the manifest is larger than {} bytes", manifest::MAX_BYTES)));
                }
                if found.replace(section.data().to_vec()).is_some() {
                    return Err(refused("two manifest sections; pack the component once, from its own build"));
                }
            }
            _ => {}
        }
    }
    found.ok_or_else(|| refused("no manifest (custom section `leadwire:manifest`): pack it with `leadwire channel pack`"))
}

fn parse_manifest(json: &[u8]) -> Result<Manifest, PluginError> {
    serde_json::from_slice(json).map_err(|e| refused(format!("its manifest cannot be read: {e}")))
}

/// The usual name of a plugin's file.
pub fn file_name(manifest: &Manifest) -> String {
    format!("{}-{}.wasm", manifest.channel.replace('/', "_"), manifest.version)
}

/// Makes a plugin file from a core module (built against the SDK) or a component, and the author's `plugin.toml`.
/// The config schema named there is read from the manifest's folder and put into the manifest itself.
pub fn pack(wasm: &[u8], manifest_path: &Path) -> Result<(Manifest, Vec<u8>), PluginError> {
    let text = std::fs::read_to_string(manifest_path).map_err(|e| refused(format!("{}: {e}", manifest_path.display())))?;
    let mut manifest: Manifest = toml::from_str(&text).map_err(|e| refused(format!("{}: {e}", manifest_path.display())))?;
    if let serde_json::Value::String(file) = &manifest.config.schema {
        let path = manifest_path.parent().unwrap_or(Path::new(".")).join(file);
        let schema = std::fs::read(&path).map_err(|e| refused(format!("{}: {e}", path.display())))?;
        manifest.config.schema = serde_json::from_slice(&schema).map_err(|e| refused(format!("{}: {e}", path.display())))?;
    }
    manifest.check().map_err(|problems| refused(format!("{}: {}", manifest_path.display(), problems.join("; "))))?;
    let mut packed = to_component(wasm)?.into_owned();
    append_section(&mut packed, &manifest)?;
    // What the author ships must be what a host accepts.
    read(packed.clone())?;
    Ok((manifest, packed))
}

fn to_component(wasm: &[u8]) -> Result<Cow<'_, [u8]>, PluginError> {
    if Parser::is_component(wasm) {
        return Ok(Cow::Borrowed(wasm));
    }
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(wasm)
        .and_then(|mut encoder| encoder.encode())
        .map(Cow::Owned)
        .map_err(|e| refused(format!("cannot make a component of this core module: {e:#}; was it built with the SDK's `export!`?")))
}

fn append_section(component: &mut Vec<u8>, manifest: &Manifest) -> Result<(), PluginError> {
    let json = serde_json::to_vec(manifest).map_err(|e| refused(e.to_string()))?;
    if json.len() > manifest::MAX_BYTES {
        return Err(refused(format!("the manifest has {} bytes; at most {} are allowed", json.len(), manifest::MAX_BYTES)));
    }
    // A custom section: id 0, size, name length, name, data (WebAssembly core specification, 5.5.3).
    let mut body = Vec::with_capacity(json.len() + 32);
    leb128(&mut body, manifest::SECTION.len());
    body.extend_from_slice(manifest::SECTION.as_bytes());
    body.extend_from_slice(&json);
    component.push(0);
    leb128(component, body.len());
    component.extend_from_slice(&body);
    Ok(())
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}
