//! A plugin built for `wasm32-wasip2`: it runs, and what it finds of the machine is nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use leadwire_tests::{Options, TestHost};
use serde_json::json;

const CODE: &str = r#"
use leadwire_sdk::{Channel, Context, Item, Outcome, Stop, Verdict, serde_json::Value};

pub struct Nosy;

impl Channel for Nosy {
    type Config = Value;

    fn deliver_one(_: &Context<Value>, _: &Item) -> Outcome {
        for line in 0..2_000 {
            println!("line {line} of a talkative plugin");
        }
        let seen = format!(
            "env {} args {} root {} passwd {} cwd {} dial {} listen {} udp {} dns {}",
            std::env::vars().count(),
            std::env::args().count(),
            std::fs::read_dir("/").is_ok(),
            std::fs::read("/etc/passwd").is_ok(),
            std::fs::read_dir(".").is_ok(),
            std::net::TcpStream::connect("127.0.0.1:PORT").is_ok(),
            std::net::TcpListener::bind("127.0.0.1:0").is_ok(),
            std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
            std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok(),
        );
        if std::env::args().count() > 7 {
            std::process::exit(3);
        }
        Ok(Verdict::rejected("seen", seen))
    }

    fn check(_: &Context<Value>) -> Result<Vec<(String, String)>, Stop> {
        std::process::exit(3)
    }
}

leadwire_sdk::export!(Nosy);
"#;

fn manifest(uses: &str) -> String {
    format!(
        "manifest = 1\ncontract = \"1.0\"\nchannel = \"test/nosy\"\nversion = \"1.0.0\"\ntitle = {{ en = \"Nosy\" }}\n\
         provides = [\"outbound\"]\nuses = [{uses}]\n[config]\nschema = \"schema.json\"\n"
    )
}

/// The plugin as a component, when the target is installed.
fn build(folder: &Path, port: u16) -> Option<PathBuf> {
    let found = Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-wasip2"]).output().ok()?;
    if !Path::new(String::from_utf8_lossy(&found.stdout).trim()).is_dir() {
        return None;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let sdk = repository.join("sdk");
    let cargo = format!(
        "[package]\nname = \"nosy\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
         [dependencies]\nleadwire-sdk = {{ path = \"{}\" }}\n[profile.release]\npanic = \"abort\"\n[workspace]\n",
        sdk.display()
    );
    std::fs::write(folder.join("Cargo.toml"), cargo).unwrap();
    std::fs::write(folder.join("src/lib.rs"), CODE.replace("PORT", &port.to_string())).unwrap();
    std::fs::write(folder.join("schema.json"), json!({"type": "object"}).to_string()).unwrap();
    std::fs::copy(repository.join("plugins/Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let built = repository.join("target/author");
    let done = Command::new("cargo")
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &built)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(built.join("wasm32-wasip2/release/nosy.wasm"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_for_wasi_runs_and_sees_no_file_no_variable_and_no_network() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let author = tempfile::tempdir().unwrap();
    let folder = author.path().to_path_buf();
    let Some(wasm) = tokio::task::spawn_blocking(move || build(&folder, port)).await.unwrap() else {
        eprintln!("not run: the target wasm32-wasip2 is not installed");
        return;
    };
    let wasm = std::fs::read(wasm).unwrap();
    let pack = |uses: &str| {
        let path = author.path().join("plugin.toml");
        std::fs::write(&path, manifest(uses)).unwrap();
        leadwire::plugin::package::pack(&wasm, &path).unwrap().1
    };
    let host = TestHost::with(Options::default()).await;
    host.project().await;

    // Only when its manifest says so.
    let upload = async |bytes: Vec<u8>| {
        let response = host.request("POST", "/api/channels").header("content-type", "application/wasm").body(bytes).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, body) = upload(pack("")).await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("add `wasi` to `uses`"), "{body}");
    let (status, body) = upload(pack("\"wasi\"")).await;
    assert_eq!(status, 201, "{body}");
    assert!(body.contains("wasi:cli/environment"), "what it really imports is shown: {body}");

    let credential = host.enable("test/nosy", json!({}), json!({})).await;
    let sent = host.send(json!({"name": "Ivan", "phone": "+79161234567"})).await;
    host.idle().await;
    let delivery = host.first_delivery(&sent).await;
    let seen = delivery["attempts"][0]["message"].as_str().unwrap_or_default();
    assert_eq!(seen, "env 0 args 0 root false passwd false cwd false dial false listen false udp false dns false", "{delivery:#}");

    let (_, checked) = host.post(&format!("/api/credentials/{credential}/check"), &json!({})).await;
    assert!(checked.to_string().contains("ended itself"), "{checked}");
}
