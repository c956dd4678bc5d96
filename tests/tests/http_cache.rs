//! The HTTP cache endpoint, as other tools see it: through ccache itself, and by what sccache and Bazel were seen to
//! say. With `BARN_TEST_SCCACHE=PATH` an sccache that was built with WebDAV is run as well.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    thread,
    time::Duration,
};

use barn_tests::{Desk, Ran, pace::patience};
use serde_json::Value;

/// Longest wait for an answer: longer than any limit of the endpoint that a test meets.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// The endpoint's limit of connections.
const CONNECTIONS_MAX: usize = 128;

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// SHA-256 of `hello\n`.
const HELLO_SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
const ANY_KEY: &str = "e8052f07ad8b79538f77df452f7a29abbbfe11cd78ebdcb08e5b378da6b39039";

/// A desk whose node has an endpoint.
struct Office {
    desk: Desk,
    token: String,
    address: SocketAddr,
}

impl Office {
    fn new() -> Self {
        Self::listening_at("127.0.0.1:0")
    }

    fn listening_at(address: &str) -> Self {
        let desk = desk_with(address);
        desk.barn(&["start"]).ok();
        let token = fs::read_to_string(desk.state().join("http-cache.token")).unwrap();
        let mut office = Self { desk, token: token.trim().to_owned(), address: ([127, 0, 0, 1], 1).into() };
        office.find();
        office
    }

    /// Takes up where the node listens now.
    fn find(&mut self) {
        let status = self.status();
        let url = status["url"].as_str().unwrap_or_else(|| panic!("{status}"));
        self.address = url.strip_prefix("http://").unwrap().parse().unwrap();
    }

    fn status(&self) -> Value {
        self.desk.barn(&["status", "--json"]).json()["http_cache"].clone()
    }

    fn stat(&self, key: &str) -> u64 {
        self.desk.barn(&["cache", "stat", "--json"]).json()[key].as_u64().unwrap()
    }

    /// Sends some bytes on a connection of their own.
    fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(patience(ANSWER_MAX))).unwrap();
        // Who is refused at once may find the line closed.
        let _ = stream.write_all(bytes);
        stream
    }

    /// Asks with the token.
    fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Answer {
        let bearer = format!("Authorization: Bearer {}\r\n", self.token);
        self.ask_with(&bearer, method, path, body)
    }

    fn ask_with(&self, headers: &str, method: &str, path: &str, body: Option<&[u8]>) -> Answer {
        let length = body.map(|body| format!("Content-Length: {}\r\n", body.len())).unwrap_or_default();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: barn\r\nConnection: close\r\n{headers}{length}\r\n");
        let mut stream = self.raw(head.as_bytes());
        let _ = stream.write_all(body.unwrap_or_default());
        Answer::read(stream)
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        let answer = self.ask("GET", path, None);
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            status => panic!("{path}: {status}"),
        }
    }

    fn put(&self, path: &str, body: &[u8]) -> u16 {
        self.ask("PUT", path, Some(body)).status
    }
}

/// A desk at which nothing runs, with an endpoint in its settings.
fn desk_with(address: &str) -> Desk {
    let desk = Desk::without_node();
    fs::create_dir(desk.state()).unwrap();
    fs::write(desk.state().join("barn.toml"), format!("[http_cache]\nlisten = \"{address}\"\n")).unwrap();
    desk
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{ended:?}: {}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A figure of `ccache --print-stats`.
fn figure(stats: &Ran, name: &str) -> u64 {
    let stats = stats.out();
    let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    line.unwrap_or_else(|| panic!("{name}: {stats}")).parse().unwrap()
}

#[test]
fn ccache_hits_what_another_ccache_stored() {
    let office = Office::new();
    let (desk, token, address) = (&office.desk, &office.token, office.address);
    desk.write("x.c", "#include <stdio.h>\nint main(void) { return puts(\"x\"); }\n");
    let compile = |folder: &str, remote: &str| {
        let line = format!(
            "unset BARN_HOME; export CCACHE_DIR=$PWD/{folder} CCACHE_REMOTE_STORAGE='{remote}'; \
             ccache gcc -c x.c -o {folder}.o && ccache --print-stats"
        );
        let stats = desk.sh(&line).ok();
        (figure(&stats, "remote_storage_hit"), figure(&stats, "remote_storage_error"))
    };
    assert_eq!(compile("first", &format!("http://barn:{token}@{address}/ccache")), (0, 0));
    // Each has a local cache of its own, which is empty.
    for (folder, remote) in [
        ("password", format!("http://barn:{token}@{address}/ccache")),
        ("bearer", format!("http://{address}/ccache|bearer-token={token}")),
        ("path", format!("http://{address}/{token}/ccache/")),
    ] {
        assert_eq!(compile(folder, &remote), (1, 0), "{folder}");
        assert!(fs::read(desk.at("first.o")).unwrap() == fs::read(desk.at(format!("{folder}.o"))).unwrap());
    }
    for (folder, remote) in [
        ("flat", format!("http://{address}/ccache|layout=flat|bearer-token={token}")),
        ("bazel", format!("http://{address}/bazel|layout=bazel|bearer-token={token}")),
    ] {
        assert_eq!(compile(folder, &remote), (0, 0), "{folder}: other names, other entries");
        assert_eq!(compile(&format!("{folder}-again"), &remote), (1, 0), "{folder}");
    }
    assert_eq!((office.stat("foreign"), office.stat("records")), (6, 0));
    // Whatever is wrong, it compiles.
    let (hits, errors) = compile("refused", &format!("http://barn:wrong@{address}/ccache"));
    assert!(hits == 0 && errors > 0, "{hits} {errors}");
    desk.barn(&["stop"]).ok();
    let (hits, errors) = compile("stopped", &format!("http://{address}/{token}/ccache"));
    assert!(hits == 0 && errors > 0, "{hits} {errors}");
}

/// What sccache 0.19.0 was seen to send.
#[test]
fn the_sequence_of_sccache() {
    let office = Office::new();
    let query =
        br#"<?xml version="1.0" encoding="utf-8" ?><D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>"#;
    let key = "/sccache/c/4/8/c4855cbf7729126cc2eabe31170fa30146b5a38dd46558c77ee2d50592ab85f8";
    assert_eq!(office.get("/sccache/.sccache_check"), None);
    let root = office.ask("PROPFIND", "/sccache/", Some(query));
    assert_eq!((root.status, root.header("content-type")), (207, Some("application/xml; charset=utf-8")));
    let text = String::from_utf8(root.body).unwrap();
    for part in ["<D:href>/sccache/</D:href>", "<D:collection/>", "getlastmodified>", "HTTP/1.1 200 OK"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(office.put("/sccache/.sccache_check", b"Hello, World!"), 201);
    assert_eq!(office.get(key), None);
    assert_eq!(office.ask("PROPFIND", "/sccache/c/4/8/", Some(query)).status, 207);
    assert_eq!(office.put(key, b"an object"), 201);
    assert_eq!(office.get("/sccache/.sccache_check").unwrap(), b"Hello, World!");
    assert_eq!(office.get(key).unwrap(), b"an object");
    // What WebDAV has beside that.
    assert_eq!(office.ask("MKCOL", "/sccache/c/4/9/", None).status, 201);
    let file = office.ask("PROPFIND", key, Some(query));
    let text = String::from_utf8(file.body).unwrap();
    assert!(text.contains("<D:getcontentlength>9<") && !text.contains("collection"), "{text}");
    assert_eq!(office.ask("PROPFIND", "/sccache/absent", Some(query)).status, 404);
    assert_eq!(office.ask("DELETE", key, None).status, 204);
    assert_eq!(office.ask("DELETE", key, None).status, 404);
    assert_eq!(office.get(key), None);
}

#[test]
fn sccache_itself() {
    let Some(program) = std::env::var_os("BARN_TEST_SCCACHE") else {
        return println!("not run: BARN_TEST_SCCACHE names no sccache with WebDAV");
    };
    let office = Office::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    office.desk.write("x.c", "int x;\n");
    let compile = |object: &str, stored: u64| {
        let line = |what: &str| {
            let line = format!(
                "export SCCACHE_SERVER_PORT={port} SCCACHE_WEBDAV_ENDPOINT=http://{}/sccache SCCACHE_WEBDAV_TOKEN={}; \
                 S={}; {what}",
                office.address,
                office.token,
                program.display()
            );
            office.desk.sh(&line).ok()
        };
        line(&format!("$S --start-server > /dev/null 2>&1 && $S gcc -c x.c -o {object}"));
        office.desk.await_that("sccache has stored it", |_| office.status()["stored"] == stored);
        let stats = line("$S --show-stats --stats-format=json; $S --stop-server > /dev/null 2>&1").json();
        stats["stats"]["cache_hits"]["counts"].clone()
    };
    assert_eq!(compile("one.o", 2), serde_json::json!({}));
    assert_eq!(compile("two.o", 3)["C/C++"], 1);
    assert!(fs::read(office.desk.at("one.o")).unwrap() == fs::read(office.desk.at("two.o")).unwrap());
}

/// What Bazel 2.1.0 was seen to send for a rule with one output, built, cleaned and built again.
#[test]
fn the_sequence_of_bazel() {
    let office = Office::new();
    let (result, output) = (format!("/bazel/ac/{ANY_KEY}"), format!("/bazel/cas/{HELLO_SHA256}"));
    let stderr = format!("/bazel/cas/{EMPTY_SHA256}");
    assert_eq!(office.get(&result), None);
    assert_eq!(office.put(&output, b"hello\n"), 201);
    assert_eq!(office.put(&stderr, b""), 201);
    assert_eq!(office.put(&result, b"an action result"), 201);
    assert_eq!(office.get(&result).unwrap(), b"an action result");
    assert_eq!(office.get(&output).unwrap(), b"hello\n");
    assert_eq!(office.get(&stderr).unwrap(), b"");
    // The same key in the other half is another entry.
    assert_eq!(office.get(&format!("/bazel/cas/{ANY_KEY}")), None);
    // An action's result may change, contents may not.
    assert_eq!(office.put(&result, b"another"), 201);
    assert_eq!(office.get(&result).unwrap(), b"another");
    let head = office.ask("HEAD", &output, None);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("6"), 0));
    assert_eq!(office.ask("HEAD", &format!("/bazel/cas/{ANY_KEY}"), None).status, 404);
    assert_eq!((office.stat("foreign"), office.stat("records")), (3, 0));
    let status = office.status();
    assert_eq!((&status["hits"], &status["misses"], &status["stored"]), (&4.into(), &2.into(), &4.into()));
    office.desk.barn(&["cache", "verify"]).ok();
    office.desk.barn(&["cache", "clear"]).ok();
    assert_eq!((office.stat("foreign"), office.get(&output)), (0, None));
}

#[test]
fn contents_that_are_not_what_their_name_says_are_refused() {
    let office = Office::new();
    let path = format!("/bazel/cas/{HELLO_SHA256}");
    assert_eq!(office.put(&path, b"hallo\n"), 400);
    assert_eq!(office.put(&path, b""), 400);
    assert_eq!((office.get(&path), office.stat("blobs")), (None, 0));
    assert_eq!(office.put(&path, b"hello\n"), 201);
    assert_eq!(office.put(&path, b"hallo\n"), 400);
    assert_eq!(office.get(&path).unwrap(), b"hello\n");
}

#[test]
fn nobody_without_the_token_gets_or_changes_anything() {
    let office = Office::new();
    let file = office.desk.state().join("http-cache.token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(office.put("/ccache/x", b"secret"), 201);
    let wrong = format!("Authorization: Bearer {}\r\n", "0".repeat(office.token.len()));
    let half = format!("Authorization: Bearer {}\r\n", &office.token[..32]);
    for headers in ["", &wrong, &half, "Authorization: Bearer \r\n", "Authorization: Basic Og==\r\n"] {
        for method in ["GET", "HEAD", "PUT", "DELETE", "PROPFIND", "MKCOL", "OPTIONS", "POST"] {
            let answer =
                office.ask_with(headers, method, "/ccache/x", (method == "PUT").then_some(b"changed"));
            assert_eq!(answer.status, 401, "{method} {headers}");
            assert_eq!(answer.header("www-authenticate"), Some("basic realm=\"barn\""));
            assert!(!answer.body.windows(6).any(|six| six == b"secret"));
        }
    }
    let absent = office.ask_with("", "GET", "/ccache/absent", None).status;
    assert_eq!((absent, office.ask_with("", "GET", "/", None).status), (401, 401));
    assert_eq!(office.get("/ccache/x").unwrap(), b"secret");
    assert_eq!(office.status()["refused"], 42);
    // The token in the log would be the token in every report of a fault.
    let with_path = format!("/{}/ccache/x", office.token);
    assert_eq!(office.ask_with("", "GET", &with_path, None).status, 200);
    let log = fs::read_to_string(office.desk.state().join("node.log")).unwrap_or_default();
    assert!(!log.contains(&office.token));
}

#[test]
fn requests_that_no_tool_sends() {
    let office = Office::new();
    for (method, path, status) in [
        ("GET", "/", 400),
        ("GET", "/ccache/../../identity.key", 400),
        ("PUT", "/ccache/../../barn.toml", 400),
        ("PUT", "/ccache/%2e%2e/%2e%2e/barn.toml", 400),
        ("GET", "/bazel/cas/../../identity.key", 400),
        ("PUT", "/bazel/ac/ABC", 400),
        ("POST", "/ccache/x", 405),
        ("MKCOL", "/ccache/x", 405),
        ("GET", "/sccache/", 405),
        ("PUT", "/sccache/folder/", 405),
    ] {
        let body = (method == "PUT").then_some(&b"x"[..]);
        assert_eq!(office.ask(method, path, body).status, status, "{method} {path}");
    }
    let settings = fs::read_to_string(office.desk.state().join("barn.toml")).unwrap();
    assert!(settings.starts_with("[http_cache]"), "{settings}");
    assert_eq!(office.ask("PUT", "/ccache/x", None).status, 411);
    let bearer = format!("Authorization: Bearer {}\r\n", office.token);
    let long = format!("{bearer}X: {}\r\n", "x".repeat(100_000));
    assert_eq!(office.ask_with(&long, "GET", "/ccache/x", None).status, 431);
    let many = format!("{bearer}{}", "X: x\r\n".repeat(100));
    assert_eq!(office.ask_with(&many, "GET", "/ccache/x", None).status, 431);
    // Refused by its length alone.
    let large = format!("{bearer}Content-Length: {}\r\n", (1_u64 << 30) + 1);
    assert_eq!(office.ask_with(&large, "PUT", "/ccache/x", None).status, 413);
    assert_eq!(office.stat("foreign"), 0);
    // In pieces of unknown number, as HTTP allows.
    let chunked = format!("{bearer}Transfer-Encoding: chunked\r\n");
    let head = format!("PUT /ccache/x HTTP/1.1\r\nHost: barn\r\nConnection: close\r\n{chunked}\r\n");
    let answer = Answer::read(office.raw(format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes()));
    assert_eq!((answer.status, office.get("/ccache/x").unwrap()), (201, b"abcde".to_vec()));
}

/// Those who begin a request and do not end it lose their places to those who do.
#[test]
fn slow_requests_hold_nobody_up_for_ever() {
    let office = Office::new();
    assert_eq!(office.put("/ccache/x", b"x"), 201);
    let mut slow: Vec<_> =
        (0..CONNECTIONS_MAX).map(|_| office.raw(b"GET /ccache/x HTTP/1.1\r\nHost:")).collect();
    assert_eq!(office.get("/ccache/x").unwrap(), b"x");
    let mut rest = Vec::new();
    let ended = slow[0].read_to_end(&mut rest);
    assert!(
        ended.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::ConnectionReset, |_| true),
        "the connection is closed: {ended:?}"
    );
}

#[test]
fn many_puts_at_once() {
    let office = Office::new();
    let contents = |n: usize| vec![u8::try_from(n).unwrap(); 40_000 + n];
    let is_whole = |bytes: &[u8]| bytes == contents(usize::from(bytes[0]));
    thread::scope(|scope| {
        for n in 0..16 {
            let office = &office;
            scope.spawn(move || {
                for _ in 0..4 {
                    assert_eq!(office.put("/ccache/same", &contents(n)), 201);
                    assert_eq!(office.put(&format!("/ccache/own/{n}"), &contents(n)), 201);
                    assert!(is_whole(&office.get("/ccache/same").unwrap()));
                }
            });
        }
    });
    assert!(is_whole(&office.get("/ccache/same").unwrap()));
    for n in 0..16 {
        assert_eq!(office.get(&format!("/ccache/own/{n}")).unwrap(), contents(n));
    }
    assert_eq!((office.stat("foreign"), office.stat("blobs")), (17, 16));
}

/// An upload that breaks off, and one during which the node is killed, leave what was there before.
#[test]
fn a_put_that_does_not_end_changes_nothing() {
    let mut office = Office::new();
    assert_eq!(office.put("/ccache/kept", b"kept"), 201);
    let begin = |office: &Office, name: &str| {
        let head = format!(
            "PUT /ccache/{name} HTTP/1.1\r\nHost: barn\r\nAuthorization: Bearer {}\r\nContent-Length: 100000\r\n\r\n",
            office.token
        );
        let stream = office.raw(&[head.as_bytes(), &[b'x'; 60_000]].concat());
        office.desk.await_that("the upload has begun", |_| !temporaries(office).is_empty());
        stream
    };
    for name in ["kept", "new"] {
        drop(begin(&office, name));
        office.desk.await_that("the upload is forgotten", |_| temporaries(&office).is_empty());
    }
    assert_eq!((office.get("/ccache/kept").unwrap(), office.get("/ccache/new")), (b"kept".to_vec(), None));
    for name in ["kept", "new"] {
        let stream = begin(&office, name);
        office.desk.signal_node("KILL");
        office.desk.await_that("the node has gone", |desk| desk.node_pid().is_none());
        drop(stream);
        office.desk.barn(&["start"]).ok();
        office.find();
        assert!(temporaries(&office).is_empty(), "{:?}", temporaries(&office));
        assert_eq!(
            (office.get("/ccache/kept").unwrap(), office.get("/ccache/new")),
            (b"kept".to_vec(), None)
        );
    }
    office.desk.barn(&["cache", "verify"]).ok();
}

fn temporaries(office: &Office) -> Vec<std::path::PathBuf> {
    let listed = fs::read_dir(office.desk.state().join("cache/tmp-v1")).into_iter().flatten();
    listed.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn large_bodies_are_never_whole_in_memory() {
    const MIB: usize = 1 << 20;
    let office = Office::new();
    let peak_kib = || -> usize {
        let status = format!("/proc/{}/status", office.desk.node_pid().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = peak_kib();
    let body: Vec<u8> = (0..160 * MIB).map(|at| (at / 4096) as u8).collect();
    assert_eq!(office.put("/ccache/large", &body), 201);
    assert!(office.get("/ccache/large").unwrap() == body);
    let grown = (peak_kib() - before) / 1024;
    assert!(grown < 60, "the node grew by {grown} MiB");
}

/// An endpoint that cannot be had keeps nobody from compiling, and is told of.
#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let desk = desk_with(&address.to_string());
    desk.write("x.c", "int x;\n");
    desk.sh("$B gcc -c x.c").ok();
    let status = desk.barn(&["status", "--json"]).json();
    let error = status["http_cache"]["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("cannot listen at {address}: ")), "{error}");
    assert!(desk.barn(&["status"]).ok().out().contains("no http cache: cannot listen"));
    let doctor = desk.barn(&["doctor"]);
    assert_eq!(doctor.status, 1);
    assert!(doctor.out().lines().any(|line| line.starts_with("wrong http-cache")), "{}", doctor.out());
    drop(taken);
    desk.barn(&["stop"]).ok();
    desk.barn(&["start"]).ok();
    let shown = desk.barn(&["status"]).ok().out();
    assert!(shown.contains(&format!("http cache at http://{address}: 0 hits")), "{shown}");
    assert!(desk.barn(&["doctor"]).out().lines().any(|line| line.starts_with("ok    http-cache")));
    // Only this machine may come in.
    fs::write(desk.state().join("barn.toml"), "[http_cache]\nlisten = \"0.0.0.0:7118\"\n").unwrap();
    desk.barn(&["stop"]);
    let refused = desk.barn(&["start"]);
    assert!(refused.status != 0 && refused.err().contains("not a loopback address"), "{}", refused.err());
    fs::remove_file(desk.state().join("barn.toml")).unwrap();
}
