//! The calls of the HTTP interface that the demo makes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// A client with a key.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
    key: String,
}

/// A delivery as the table and the check need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub id: String,
    pub channel: String,
    pub status: String,
    /// How often it was tried.
    pub attempts: usize,
    /// What went wrong last, if anything did.
    pub error: Option<String>,
}

impl Delivery {
    /// Reads it from any answer that shows one.
    pub fn read(value: &Value) -> Result<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned).with_context(|| format!("a delivery without `{name}`: {value}"));
        let attempts = value["attempts"].as_array().map_or(0, Vec::len);
        Ok(Self {
            id: text("id")?,
            channel: text("channel")?,
            status: text("status")?,
            attempts,
            error: value["last_error"].as_str().map(str::to_owned),
        })
    }

    /// Whether nothing more will happen by itself.
    pub fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "queued" | "sending")
    }
}

impl Api {
    /// A client for the host at `base`.
    pub fn new(base: String, key: String) -> Result<Self> {
        // More than one provider may be compiled in; a second installation is no fault.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().context("make an HTTP client")?;
        Ok(Self { client, base, key })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base)).header("X-API-Key", &self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("{method} {path}"))?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A call that has to succeed.
    pub async fn expect(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.call(method.clone(), path, body).await?;
        if !status.is_success() {
            bail!("{method} {path} was answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// Whether the host serves.
    pub async fn is_ready(&self) -> bool {
        self.call(Method::GET, "/readyz", None).await.is_ok_and(|(status, _)| status.is_success())
    }

    /// The project `demo`, made on the first run. Returns its id.
    pub async fn ensure_project(&self) -> Result<String> {
        let (status, found) = self.call(Method::GET, "/api/projects/ext:demo", None).await?;
        let project = match status {
            StatusCode::NOT_FOUND => {
                let body =
                    json!({"external_id": "demo", "name": "Demo", "default_region": "RU", "time_zone": "Europe/Moscow", "locale": "ru"});
                self.expect(Method::POST, "/api/projects", Some(&body)).await?
            }
            status if status.is_success() => found,
            status => bail!("GET /api/projects/ext:demo was answered {status}: {found}"),
        };
        Ok(project["id"].as_str().context("a project without `id`")?.to_owned())
    }

    /// Makes the credential, or brings the one of the same name up to date: the receivers' ports differ each time.
    pub async fn ensure_credential(&self, project: &str, body: &Value) -> Result<()> {
        let path = format!("/api/projects/{project}/credentials");
        let list = self.expect(Method::GET, &format!("{path}?limit=200"), None).await?;
        let same = |have: &&Value| have["name"] == body["name"] && have["channel"] == body["channel"];
        match list["data"].as_array().into_iter().flatten().find(same) {
            Some(have) => {
                let id = have["id"].as_str().context("a credential without `id`")?;
                let change = json!({"config": body["config"], "secrets": body["secrets"], "enabled": true});
                self.expect(Method::PATCH, &format!("/api/credentials/{id}"), Some(&change)).await?;
            }
            None => {
                self.expect(Method::POST, &path, Some(body)).await?;
            }
        }
        Ok(())
    }

    /// One delivery as it is now.
    pub async fn delivery(&self, id: &str) -> Result<Delivery> {
        Delivery::read(&self.expect(Method::GET, &format!("/api/deliveries/{id}"), None).await?)
    }
}
