//! A gateway process, and an HTTP/1.0 client for it. An HTTP/1.0 response has no
//! chunks and ends with the connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Failure;

/// A running gateway. A drop kills the process.
pub struct Gateway {
    address: SocketAddr,
    child: Child,
}

/// The recorded parts of a response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub body: String,
}

impl Answer {
    /// Returns the response if it has the status `status`.
    pub fn expect(self, status: u16) -> Result<Answer, Failure> {
        if self.status == status { Ok(self) } else { Err(format!("{self:?}").into()) }
    }
}

impl Gateway {
    /// Starts a gateway with a store in `folder`, on free ports.
    pub fn start(
        program: &Path,
        folder: &Path,
        sync: &str,
        kept_events: usize,
    ) -> Result<Gateway, Failure> {
        let store = Value::from(folder.join("store").display().to_string());
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndrain = \"3s\"\n\
             [storage]\npath = {store}\nsync = \"{sync}\"\n\
             [[collections]]\nname = \"orders\"\nretention = {{ events = {kept_events} }}\n\
             [[topics]]\nname = \"audit\"\n"
        );
        let file = folder.join("config.toml");
        std::fs::write(&file, config)?;
        let mut child = Command::new(program)
            .args(["serve", "--log-format", "json", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().ok_or("the gateway has no standard error")?;
        let mut lines = BufReader::new(log).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let entry: Value = serde_json::from_str(&line).ok()?;
            entry.get("listen")?.as_str()?.parse().ok()
        });
        let Some(address) = address else {
            child.kill()?;
            return Err("the gateway ended before it served".into());
        };
        // The thread reads the log, because a full pipe would block the gateway.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Gateway { address, child })
    }

    /// Sends a request. Each line of `headers` ends with CR LF.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &str,
        body: &str,
    ) -> Result<Answer, Failure> {
        let mut socket = TcpStream::connect(self.address)?;
        let length = body.len();
        write!(
            socket,
            "{method} {target} HTTP/1.0\r\nhost: gateway\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        )?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("the response has no head")?;
        let status = head.split(' ').nth(1).ok_or("the response has no status")?.parse()?;
        let etag = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("etag").then(|| value.to_owned())
        });
        Ok(Answer { status, etag, body: body.to_owned() })
    }

    pub fn get(&self, target: &str, accept: &str) -> Result<Answer, Failure> {
        self.request("GET", target, &format!("accept: {accept}\r\n"), "")
    }

    /// Sends a write that must succeed.
    pub fn write(&self, method: &str, target: &str, body: &str) -> Result<(), Failure> {
        let answer = self.request(method, target, "", body)?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        Err(format!("{method} {target}: {answer:?}").into())
    }

    /// Stops the gateway with SIGTERM and waits for its end.
    pub fn stop(mut self) -> Result<(), Failure> {
        let pid = self.child.id().to_string();
        Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status()?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the gateway ended: {status}").into()) }
    }

    /// Kills the gateway with SIGKILL.
    pub fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
