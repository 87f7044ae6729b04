//! A bucket at an S3 server of its own, as a controller is told of it.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use pureboot_tests::controller::Options;
use pureboot_tests::process::Program;
use pureboot_tests::site::ARRIVAL_LIMIT;
use pureboot_tests::{s3_server, wait};

/// What the bucket is called.
const NAME: &str = "boot";

/// A bucket; its server ends with it.
pub(crate) struct Bucket {
    endpoint: String,
    _server: Program,
}

impl Bucket {
    /// Starts a server with its log in `dir` and makes the bucket.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new(s3_server()?);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        let server = Program::spawn("moto_server", command, dir)?;
        wait::until("the S3 server listens", ARRIVAL_LIMIT, || {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(()))
        })?;
        let endpoint = format!("http://127.0.0.1:{port}");
        let made = minreq::put(format!("{endpoint}/{NAME}")).with_timeout(10).send()?;
        ensure!(made.status_code == 200, "cannot make the bucket: {}", made.status_code);
        Ok(Self { endpoint, _server: server })
    }

    /// `--content` for what is below `prefix`.
    pub(crate) fn place(prefix: &str) -> String {
        format!("s3://{NAME}/{prefix}")
    }

    /// The environment of whoever is to reach it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }

    /// What a controller is started with that keeps its content below `prefix`.
    pub(crate) fn options(&self, prefix: &str) -> Options {
        let arguments = vec!["--content".to_owned(), Self::place(prefix)];
        Options { arguments, environment: self.environment() }
    }

    /// The keys that begin with `prefix`.
    pub(crate) fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let url = format!("{}/{NAME}?list-type=2&prefix={prefix}", self.endpoint);
        let listed = minreq::get(url).with_timeout(10).send()?;
        let keys = listed.as_str()?.split("<Key>").skip(1);
        Ok(keys.filter_map(|key| Some(key.split_once('<')?.0.to_owned())).collect())
    }
}
