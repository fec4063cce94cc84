//! Looks at a compiled component before it may serve: what it imports against what its manifest declares, what it
//! exports against what it provides, and whether the types fit, by one trial instance.

use std::collections::BTreeSet;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::PluginError;
use super::bindings::OutboundHostIndices;
use super::call::CallState;
use super::manifest::{Manifest, Provides, Uses};

/// The contract this host speaks.
pub const CONTRACT: &str = "1.0";
const PACKAGE: &str = "leadwire:channel/";
/// Imports that need no declaration.
const FREE: [&str; 5] = ["types", "progress", "log", "clock", "random"];

/// A component that passed.
pub struct Inspected {
    /// Ready to be instantiated.
    pub pre: InstancePre<CallState>,
    /// Where its exports are.
    pub indices: OutboundHostIndices,
    /// The names of what it imports.
    pub imports: Vec<String>,
}

fn refused(reason: impl Into<String>) -> PluginError {
    PluginError::Refused(reason.into())
}

/// Checks names of imports and exports against the manifest, links, and makes sure by the types that calls will work.
pub fn inspect(linkers: &super::call::Linkers, manifest: &Manifest, component: &Component) -> Result<Inspected, PluginError> {
    let engine = component.engine();
    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    check_imports(manifest, &imports)?;
    check_exports(manifest, ty.exports(engine).map(|(name, item)| (name, item.ty)))?;
    let linker = linkers.for_manifest(manifest);
    let pre = linker.instantiate_pre(component).map_err(|e| refused(explain_link(&e)))?;
    let indices = OutboundHostIndices::new(&pre).map_err(|e| refused(explain_link(&e)))?;
    Ok(Inspected { pre, indices, imports })
}

fn check_imports(manifest: &Manifest, imports: &[String]) -> Result<(), PluginError> {
    let declared: BTreeSet<&str> = manifest.uses.iter().map(|uses| uses.interface()).collect();
    for import in imports {
        if let Some(name) = import.strip_prefix(PACKAGE) {
            let interface = name.split('@').next().unwrap_or(name);
            if FREE.contains(&interface) || declared.contains(interface) {
                continue;
            }
            if Uses::ALL.iter().any(|known| known.interface() == interface) {
                return Err(refused(format!("it imports `{interface}`, which its manifest does not declare: add it to `uses`")));
            }
            return Err(refused(format!("it imports `{import}`, which this host (contract {CONTRACT}) does not have")));
        }
        if import.starts_with("wasi:") {
            if manifest.uses.contains(&Uses::Wasi) {
                continue;
            }
            return Err(refused(format!(
                "it imports `{import}`: add `wasi` to `uses` (it is linked with nothing granted) or build for wasm32-unknown-unknown"
            )));
        }
        return Err(refused(format!("it imports `{import}`, which no host offers")));
    }
    Ok(())
}

fn check_exports<'a>(manifest: &Manifest, exports: impl Iterator<Item = (&'a str, ComponentItem)>) -> Result<(), PluginError> {
    let mut exported = BTreeSet::new();
    for (name, _) in exports {
        let Some(interface) = name.strip_prefix(PACKAGE) else { continue };
        let (interface, version) = interface.split_once('@').unwrap_or((interface, ""));
        if version.split('.').next() != Some("1") {
            return Err(refused(format!("it exports `{name}`; this host speaks contract {CONTRACT}")));
        }
        if let Some(known) = Provides::ALL.into_iter().find(|known| known.interface() == interface) {
            exported.insert(known);
        }
    }
    if let Some(missing) = manifest.provides.difference(&exported).next() {
        return Err(refused(format!("its manifest provides `{}`, but the component does not export it", missing.interface())));
    }
    if let Some(extra) = exported.difference(&manifest.provides).next() {
        return Err(refused(format!("it exports `{}`, which its manifest does not name under `provides`", extra.interface())));
    }
    Ok(())
}

/// wasmtime names the interface and one detail; say what the author can do about it.
fn explain_link(error: &wasmtime::Error) -> String {
    format!("it was built against another contract than {CONTRACT}: {error:#}; rebuild it with the SDK of this host's version")
}

impl Inspected {
    /// Makes one instance and takes the export's functions: only that compares every record and variant.
    pub async fn trial(&self, mut store: wasmtime::Store<CallState>) -> Result<(), PluginError> {
        let instance =
            self.pre.instantiate_async(&mut store).await.map_err(|e| refused(format!("a first instance cannot be made: {e:#}")))?;
        self.indices.load(&mut store, &instance).map(drop).map_err(|e| refused(explain_link(&e)))
    }
}
