//! nginx, with a configuration of its own and nothing of the system's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pureboot_tests::process::{self, Program};
use pureboot_tests::wait;

use crate::bench::peers::Server;
use crate::bench::proc::CpuMeter;

/// What nginx answers to everything below `/boot/`, in bytes: as much as a boot script, and fixed.
const ANSWER_LEN: usize = 1_024;

/// Starts nginx on `root`: one process, `sendfile` as its makers set it, no log of requests.
pub(super) fn nginx(root: &Path, dir: &Path) -> Result<Server> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let prefix = dir.join("nginx");
    fs::create_dir_all(&prefix)?;
    let settings = prefix.join("nginx.conf");
    fs::write(&settings, configuration(root, &prefix, address))?;
    let mut command = process::system("nginx").context("apt-get install nginx-light")?;
    command.arg("-p").arg(&prefix).arg("-c").arg(&settings).args(["-e", "stderr"]);
    let program = Program::spawn("nginx", command, dir)?;
    wait::until("nginx answers", Duration::from_secs(10), || {
        Ok(TcpStream::connect(address).ok().map(|_| ()))
    })?;
    let cpu = CpuMeter::new(program.pid());
    Ok(Server { name: "nginx", address, _program: Some(program), cpu })
}

fn configuration(root: &Path, prefix: &Path, address: SocketAddr) -> String {
    let (root, prefix) = (root.display(), prefix.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {prefix}/{what};\n"))
        .concat();
    let answer = "a".repeat(ANSWER_LEN);
    format!(
        "daemon off;\nmaster_process off;\npid {prefix}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n{temporary}  access_log off;\n  sendfile on;\n  tcp_nodelay on;\n\
         \x20 keepalive_requests 1000000000;\n  keepalive_timeout 300s;\n\
         \x20 server {{\n    listen {address} backlog=8192;\n    root {root};\n\
         \x20   location /boot/ {{ default_type text/plain; return 200 \"{answer}\"; }}\n  }}\n}}\n"
    )
}
