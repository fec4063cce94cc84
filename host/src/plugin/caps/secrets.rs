//! `secrets`: work with secrets without seeing them; and `secrets-reveal`, which a manifest must declare twice.

use crate::plugin::bindings::wit;
use crate::plugin::call::CallState;
use crate::plugin::manifest::{SecretField, SecretUse, Uses};
use crate::secrets::{MacAlg, decode_secret, matches, sign};

impl CallState {
    /// The declared field, if the manifest allows this use of it.
    fn secret_field(&self, name: &str, wanted: SecretUse) -> Result<&SecretField, wit::secrets::Failure> {
        let field = self.env.manifest.secrets.iter().find(|field| field.name == name).ok_or(wit::secrets::Failure::Unknown)?;
        if field.uses.contains(&wanted) { Ok(field) } else { Err(wit::secrets::Failure::NotAllowed) }
    }
}

fn body(data: &wit::types::Body) -> &[u8] {
    match data {
        wit::types::Body::Empty => &[],
        wit::types::Body::Text(text) => text.as_bytes(),
        wit::types::Body::Bytes(bytes) => bytes,
    }
}

impl wit::secrets::Host for CallState {
    fn has(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(self.env.secrets.get(&name).is_some())
    }

    fn sign(
        &mut self,
        name: String,
        alg: wit::secrets::Mac,
        data: wit::types::Body,
    ) -> wasmtime::Result<Result<Vec<u8>, wit::secrets::Failure>> {
        let field = match self.secret_field(&name, SecretUse::Sign) {
            Ok(field) => field,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(secret) = self.env.secrets.get(&name) else { return Ok(Err(wit::secrets::Failure::Unknown)) };
        // It was checked when it was entered; a field that was changed since is as good as not filled.
        let Ok(key) = decode_secret(field, secret.expose()) else { return Ok(Err(wit::secrets::Failure::Unknown)) };
        let alg = match alg {
            wit::secrets::Mac::HmacSha1 => MacAlg::HmacSha1,
            wit::secrets::Mac::HmacSha256 => MacAlg::HmacSha256,
            wit::secrets::Mac::HmacSha512 => MacAlg::HmacSha512,
            wit::secrets::Mac::HmacMd5 => MacAlg::HmacMd5,
        };
        let since = tokio::time::Instant::now();
        let mac = sign(alg, &key, body(&data));
        self.charge(since)?;
        Ok(Ok(mac))
    }

    fn matches(&mut self, name: String, candidate: String) -> wasmtime::Result<Result<bool, wit::secrets::Failure>> {
        if let Err(failure) = self.secret_field(&name, SecretUse::Sign) {
            return Ok(Err(failure));
        }
        let Some(secret) = self.env.secrets.get(&name) else { return Ok(Err(wit::secrets::Failure::Unknown)) };
        Ok(Ok(matches(secret, &candidate)))
    }
}

impl wit::secrets_reveal::Host for CallState {
    fn reveal(&mut self, name: String) -> wasmtime::Result<Result<String, wit::secrets::Failure>> {
        if !self.env.manifest.uses.contains(&Uses::SecretsReveal) {
            return Ok(Err(wit::secrets::Failure::NotAllowed));
        }
        if let Err(failure) = self.secret_field(&name, SecretUse::Reveal) {
            return Ok(Err(failure));
        }
        let Some(secret) = self.env.secrets.get(&name) else { return Ok(Err(wit::secrets::Failure::Unknown)) };
        Ok(Ok(secret.expose().to_owned()))
    }
}
