//! A browser's WebSocket is the same one through twenty upgrades that are asked for in its page, and nothing that is said is lost or
//! repeated.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flip_tests::{PATIENCE, Start};
use serde_json::Value;

const UPGRADES: u64 = 20;
/// The last one that was tried.
const PLAYWRIGHT: &str = "playwright-core@1.65.1";

/// What drives the browser, or what of it is not here.
fn driver() -> Result<(PathBuf, PathBuf), String> {
    let runs = |program: &str| {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let browser = std::env::split_paths(&path)
        .flat_map(|directory| ["chromium", "chromium-browser", "google-chrome"].map(|name| directory.join(name)))
        .find(|browser| browser.is_file())
        .ok_or("chromium is not installed")?;
    if !runs("node") || !runs("npm") {
        return Err("node and npm are not installed".to_owned());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    fs::create_dir_all(&directory).unwrap();
    if !directory.join("node_modules/playwright-core").exists() {
        let npm = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", PLAYWRIGHT])
            .current_dir(&directory)
            .output();
        let npm = npm.map_err(|error| error.to_string())?;
        if !npm.status.success() {
            return Err(format!("{PLAYWRIGHT} cannot be had: {}", String::from_utf8_lossy(&npm.stderr)));
        }
    }
    Ok((directory, browser))
}

#[test]
fn websocket_is_the_same_one_through_twenty_upgrades() {
    let (directory, browser) = match driver() {
        Ok(driver) => driver,
        Err(why) => return flip_tests::skip(&why),
    };
    // The script finds its package beside itself.
    let script = directory.join("chat.mjs");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/chat.mjs"), &script).unwrap();
    let screenshot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat.png");

    let service = Start::new(env!("CARGO_BIN_EXE_chat")).arg("--listen").arg("127.0.0.1:0").spawn();
    let line = service.line("chat at http://");
    let address = line.rsplit_once("//").unwrap().1.trim().to_owned();
    let output = Command::new("node")
        .arg(script)
        .arg(&address)
        .args([browser, screenshot.clone()])
        .arg(UPGRADES.to_string())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        service.fail(&format!("the browser: {errors}"));
    }
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said: Vec<u64> = serde_json::from_value(result["said"].clone()).unwrap();
    for person in result["saw"].as_array().unwrap() {
        let (name, heard) = (&person["name"], person["heard"].as_array().unwrap());
        assert_eq!(person["opens"], 1, "{name} opened another WebSocket: {}", service.log().text());
        assert_eq!(person["generation"], UPGRADES + 1, "{name}");
        assert_eq!(person["moves"], format!("{UPGRADES} times"), "{name}");
        assert_eq!((&person["wrong"], &person["error"]), (&Value::from(0), &Value::from("")), "{name}");
        assert_eq!(person["errors"], Value::Array(vec![]), "{name}");
        for (speaker, count) in ["Ada", "Grace"].into_iter().zip(&said) {
            let of_speaker: Vec<_> = heard.iter().filter(|text| text.as_str().unwrap().starts_with(speaker)).collect();
            let expected: Vec<_> = (1..=*count).map(|number| format!("{speaker} says {number}")).collect();
            assert_eq!(of_speaker, expected.iter().collect::<Vec<_>>(), "what {name} heard of {speaker}");
        }
    }
    println!("{} messages through {UPGRADES} upgrades; {}", said.iter().sum::<u64>(), screenshot.display());
    service.stop_all();
}

#[test]
fn page_of_another_site_gets_no_websocket() {
    let service = Start::new(env!("CARGO_BIN_EXE_chat")).arg("--listen").arg("127.0.0.1:0").spawn();
    let address = service.line("chat at http://").rsplit_once("//").unwrap().1.trim().to_owned();
    let answer = |origin: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: {address}\r\n{origin}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        String::from_utf8_lossy(&status).into_owned()
    };
    assert_eq!(answer(&format!("Origin: http://{address}\r\n")), "HTTP/1.1 101");
    assert_eq!(answer(""), "HTTP/1.1 101");
    for foreign in ["http://elsewhere.example", "null", "http://127.0.0.1"] {
        assert_eq!(answer(&format!("Origin: {foreign}\r\n")), "HTTP/1.1 403", "{foreign}");
    }
    service.stop_all();
}
