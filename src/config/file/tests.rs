use std::time::Duration;

use super::*;
use crate::config::cli::{Cli, Command};
use crate::dialect::Dialect;
use crate::http1::Status;
use crate::http1::head::{RequestHead, parse_request};
use crate::route::matching::Found;

const ROOM: Room = Room { descriptors: 20_000, cores: 2 };

fn read_with(text: &str, flags: &str) -> Result<Plan, String> {
    let words = ["millstream", "serve", "--config", "relay.toml"];
    let cli = Cli::read(words.into_iter().chain(flags.split_whitespace())).expect("flags parse");
    let Command::Serve(args) = cli.command else { panic!("not serve") };
    let environment = |name: &str| match name {
        "KEY" => Some("sk-1234567890".to_owned()),
        "UPSTREAM" => Some("http://127.0.0.1:9000".to_owned()),
        "BAD" => Some("sk-secret-value".to_owned()),
        _ => None,
    };
    read("relay.toml", text, &environment, &args.given, ROOM)
}

fn plan(text: &str) -> Plan {
    read_with(text, "").unwrap_or_else(|error| panic!("{error}\nin {text}"))
}

fn faults(text: &str) -> String {
    read_with(text, "").map(|plan| plan.describe()).expect_err(text)
}

fn head(request: &str) -> RequestHead {
    let bytes = format!("{request} HTTP/1.1\r\nHost: h\r\n\r\n");
    match parse_request(bytes.as_bytes(), &mut 0) {
        Ok(Status::Complete((head, _))) => head,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_with_an_upstream_alone_is_what_the_flags_are() {
    let plan =
        plan("upstream = \"http://up:1/base\"\nworkers = 3\npin = true\nheartbeat = \"off\"\n");
    assert_eq!((plan.workers, plan.pin, plan.exchange.heartbeat), (3, true, None));
    assert_eq!(plan.upstreams[0].endpoints[0].url(), "http://up:1/base");
    let [route] = plan.routes.as_slice() else { panic!("one route") };
    assert!(route.forwards_credentials && route.name.is_empty());
    assert_eq!(route.exchange.heartbeat, None);
    assert_eq!(plan.exchange.retry.retries, crate::limits::RETRIES);
}

#[test]
fn the_route_says_first_then_its_group_then_the_top_and_flags_win() {
    let text = r#"
        listen = ["127.0.0.1:1", "127.0.0.1:2"]
        retries = 7
        idle_timeout = "1m"
        stream_timeout = "5m"
        retry_posts = true
        [[upstream]]
        name = "a"
        url = "http://a:1"
        retries = 4
        idle_timeout = "2m"
        pool_max_idle = 3
        connect_timeout = "2s"
        [[upstream]]
        name = "b"
        urls = ["http://b:1", "http://b:2/x"]
        [[route]]
        path = "/a"
        upstream = "a"
        retries = 1
        retry_status = [429, 503]
        retry_posts = false
        [[route]]
        path = "/b"
        upstream = "b"
        stream_timeout = "60s"
        retry_status = []
    "#;
    let told = |flags: &str| {
        let plan = read_with(text, flags).expect("valid");
        let exchange = |n: usize| plan.routes[n].exchange.clone();
        let (a, b) = (exchange(0), exchange(1));
        let seconds = |duration: Option<Duration>| duration.map_or(0, |d| d.as_secs());
        assert_eq!(a.connect_timeout, plan.upstreams[0].connect_timeout);
        assert_eq!(plan.upstreams[1].endpoints.len(), 2);
        (
            (a.retry.retries, seconds(a.idle_timeout), seconds(a.stream_timeout), a.retry.posts),
            (b.retry.retries, seconds(b.idle_timeout), seconds(b.stream_timeout), b.retry.posts),
            (
                plan.upstreams[0].pool.idle_max,
                plan.upstreams[1].pool.idle_max,
                plan.listeners.len(),
            ),
            (a.retry.statuses, b.retry.statuses),
        )
    };
    let file = told("");
    let statuses = (vec![429, 503], vec![]);
    assert_eq!(file, ((1, 120, 300, false), (7, 60, 60, true), (3, 64, 2), statuses.clone()));
    let won = told("--retries 0 --stream-timeout 2s --listen 127.0.0.1:3 --pool-max-idle 5");
    assert_eq!(won, ((0, 120, 2, false), (0, 60, 2, true), (5, 5, 1), statuses));
    assert!(read_with(text, "--retry-posts").expect("valid").routes[0].exchange.retry.posts);
    let refused = read_with(text, "--upstream http://c:1").expect_err("two groups");
    assert!(refused.starts_with("--upstream: "), "{refused}");
    let one = "upstream = \"http://a:1\"\n[[route]]\npath = \"/x\"\n";
    let plan = read_with(one, "--upstream http://c:1").expect("valid");
    assert_eq!(plan.upstreams[0].endpoints[0].url(), "http://c:1");
    let none = "[[route]]\npath = \"/x\"\n";
    assert!(read_with(none, "--upstream http://c:1").is_ok());
    assert!(read_with(none, "").expect_err("none").contains("no upstream is given"));
}

#[test]
fn a_whole_route_is_read() {
    let plan = plan(
        r#"
        [[upstream]]
        name = "up"
        url = "${UPSTREAM}"
        key = "${KEY}"
        [[route]]
        name = "optimize"
        host = "*.example.com"
        method = ["GET", "POST"]
        path = "/optimize/{kind}"
        to = "/prompt/{kind}"
        dialect = "generic"
        response = "passthrough"
        max_in_flight = 100
        query = ["prompt", "type"]
        stream = "force"
        rename = { opening = "system" }
        remove = ["debug"]
        default = { model = "qwen-max", "a.b" = [1, 1e400, { c = 0x10 }] }
        set = { seed = 123456789012345678901234567890 }
        request_headers = { set = { X-Tenant = "t", X-Key = "${KEY}" }, remove = ["Cookie"], pass = ["Accept"] }
        response_headers = { remove = ["Server"] }
        cors = { origins = ["https://a.example"], credentials = true, max_age = "1h" }
        [route.fields]
        prompt = { required = true, type = "string", min_bytes = 1, max_bytes = "8k" }
        [route.body]
        prompt = { from = "prompt" }
        type = { from = "type", default = "优化" }
        stream = true
        "#,
    );
    let route = &plan.routes[0];
    let made = route.body.apply(
        r#"{"prompt":"é"}"#.as_bytes(),
        "/prompt/x?type=%E6%89%A9%E5%86%99&y=1",
        Dialect::Generic,
    );
    let made = made.expect("applies");
    let body = String::from_utf8(made.body).expect("UTF-8");
    assert_eq!(
        body,
        "{\"prompt\":\"é\",\"type\":\"扩写\",\"stream\":true,\"model\":\"qwen-max\",\
         \"a\":{\"b\":[1,1e400,{\"c\":16}]},\"seed\":123456789012345678901234567890}"
    );
    assert_eq!(made.target, "/prompt/x?y=1");
    let router = crate::route::matching::Router::new([route.matching.clone()]);
    let asked = head("GET /optimize/x");
    assert_eq!(router.find(&asked, "GET"), Found::NotFound, "another host");
    assert_eq!((route.in_flight_max, route.dialect), (Some(100), Some(Dialect::Generic)));
    assert!(!route.forwards_credentials);
    assert_eq!(route.cors.as_ref().expect("cors").max_age, Duration::from_secs(3600));
    let shown = plan.describe();
    for part in ["optimize", "/prompt/{kind}", "X-Tenant: t", "X-Key: [hidden]", "127.0.0.1:9000"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains("sk-1") && !format!("{plan:?}").contains("sk-1"), "{shown}");
}

#[test]
fn what_a_route_tells_is_shown() {
    let text = "upstream = \"http://a:1\"\n[[route]]\npath = \"/x\"\nresponse = \"forward\"\n\
        errors = \"event\"\nlift_system = true\n[[route]]\npath = \"/y\"\nresponse = \"tokens\"\n";
    let plan = read_with(text, "").expect("valid");
    assert!(plan.routes[0].body.lift_system && !plan.routes[1].body.lift_system);
    let shown = plan.describe();
    for part in ["forward, early errors as events", "system messages", "tokens, early errors as a"]
    {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

const UP: &str = "upstream = \"http://a:1\"\n";

/// Each text has one fault: its line, and what is said of it.
fn told(cases: &[(String, usize, &str)]) {
    for (text, line, has) in cases {
        let told = faults(text);
        let at = format!("relay.toml:{line}: ");
        assert!(told.starts_with(&at) && told.contains(has), "{text}\n{told}");
        assert_eq!(told.lines().count(), 1, "{text}\n{told}");
        assert!(!told.contains("sk-secret"), "{told}");
    }
}

#[test]
fn every_fault_of_the_file_and_its_upstreams_names_its_line_and_the_mend() {
    told(&[
        ("upsteam = \"http://a\"\n".to_owned(), 1, "did you mean \"upstream\"?"),
        (format!("{UP}max_stream = 3"), 2, "did you mean \"max_streams\"?"),
        (format!("{UP}max-streams = 3"), 2, "did you mean \"max_streams\"?"),
        (format!("{UP}config = \"x\""), 2, "no key of the file"),
        (format!("{UP}idle_timeout = 30"), 2, "idle_timeout: \"30\": the unit is missing"),
        (format!("{UP}idle_timeout = true"), 2, "idle_timeout: is a boolean; write a string"),
        (format!("{UP}pin = \"yes\""), 2, "pin: is a string; write true or false"),
        (format!("{UP}high_water_mark = \"1k\""), 2, "high_water_mark: 1024 bytes is too small"),
        (format!("{UP}retry_status = [200]"), 2, "retry_status: 200 is no error status"),
        (format!("{UP}tls_cert = \"a.pem\""), 2, "give one tls_key for each tls_cert"),
        (format!("{UP}[[listener]]\ntls_cert = \"a\""), 2, "the listener has no address"),
        (format!("{UP}[[listener]]\naddress = \"x\""), 3, "address: \"x\": "),
        (
            format!("{UP}[[listener]]\naddress = \"127.0.0.1:1\"\ntls_key = \"a\""),
            4,
            "give one tls_key for each tls_cert",
        ),
        (
            format!("{UP}[[listener]]\naddress = \"127.0.0.1:1\"\ntls_crt = \"a\""),
            4,
            "did you mean \"tls_cert\"?",
        ),
        (format!("{UP}\n\nupstream_ca = \"a\""), 4, "upstream_ca: the upstream is plain http"),
        (format!("{UP}x = "), 2, "this is not TOML"),
        ("upstream = \"${NONE}\"".to_owned(), 1, "NONE is not set in the environment"),
        ("upstream = \"${NONE\"".to_owned(), 1, "without its }"),
        ("upstream = \"${BAD}\"".to_owned(), 1, "upstream: \"${BAD}\": it begins neither"),
        ("[[upstream]]\nname = \"a\"".to_owned(), 1, "the upstream has no url"),
        ("[[upstream]]\nurl = \"http://a\"\nkey = \"\"".to_owned(), 3, "key: is empty"),
        ("[[upstream]]\nurl = \"http://a\"\nkey = \"file:/none\"".to_owned(), 3, "cannot be read"),
        ("[[upstream]]\nurl = \"http://a\"\nkey_header = \"x y\"".to_owned(), 3, "no field name"),
        (
            "[[upstream]]\nurl = \"http://a\"\ntls_ca = \"a\"".to_owned(),
            3,
            "tls_ca: the upstream is",
        ),
        ("[[upstream]]\nurl = \"http://a\"\npool_max_idle = 9999".to_owned(), 3, "leaves no room"),
        ("[[upstream]]\nurl = \"ftp://a\"".to_owned(), 2, "url: \"ftp://a\": it begins neither"),
        ("[[upstream]]\nurl = \"http://a\"\nretrie = 1".to_owned(), 3, "did you mean \"retries\"?"),
        ("[upstream]\nurl = \"http://a\"".to_owned(), 1, "write [[upstream]]"),
        (
            "[[upstream]]\nurl = \"http://a\"\nname = \"a\"\n[[upstream]]\nurl = \"http://b\""
                .into(),
            4,
            "the upstream has no name",
        ),
    ]);
}

#[test]
fn every_fault_of_a_route_names_its_line_and_the_mend() {
    let route = |keys: &str| format!("{UP}[[route]]\npath = \"/x\"\n{keys}\n");
    told(&[
        (route("pat = \"/y\""), 4, "did you mean \"path\"?"),
        (route("prefix = \"/y\""), 4, "path and prefix are both given"),
        (route("method = \"post\""), 4, "write it in capitals"),
        (route("host = \"a:1\""), 4, "without a port"),
        (route("to = \"y\""), 4, "to: \"y\" does not begin with a /"),
        (route("to = \"/{y}\""), 4, "names {y}"),
        (route("upstream = \"b\""), 4, "is no [[upstream]]"),
        (route("dialect = \"openai\""), 4, "write one of \"auto\", \"openai-chat\""),
        (route("response = \"raw\""), 4, "write one of \"passthrough\", \"tokens\""),
        (route("max_in_flight = 0"), 4, "write 1 or more"),
        (route("max_in_flight = \"many\""), 4, "write a whole number"),
        (route("stream = \"on\""), 4, "write one of \"force\", \"forbid\""),
        (route("heartbeat = \"10ms\""), 4, "heartbeat: shorter than a second; write 1s"),
        (route("fields = { a = { typ = \"string\" } }"), 4, "did you mean \"type\"?"),
        (route("fields = { a = { type = \"text\" } }"), 4, "write one of \"string\""),
        (route("fields = { a = { max_bytes = \"1q\" } }"), 4, "unknown unit"),
        (route("set = { \"a..b\" = 1 }"), 4, "is no field"),
        (route("set = { a = 2020-01-01 }"), 4, "JSON has no dates"),
        (route("set = { a = nan }"), 4, "no number in JSON"),
        (route("body = { a = { from = \"b\", or = 1 } }"), 4, "known are from, default"),
        (route("request_headers = { set = { Host = \"x\" } }"), 4, "by the relay itself"),
        (route("request_headers = { set = { A = \"x\\ny\" } }"), 4, "no field has"),
        (route("response_headers = { pass = [\"a\"] }"), 4, "known are set, remove"),
        (route("cors = { origins = \"a.example\" }"), 4, "is no origin"),
        (route("cors = { credentials = true }"), 4, "no origins are given"),
        (route("cors = { origins = \"*\", credentials = true }"), 4, "name the origins"),
        (route("dialect = \"anthropic\"\ninclude_usage = true"), 2, "include_usage: anthropic has"),
        (route("events = { done = false }"), 4, "\"tokens\" and \"forward\" alone"),
        (route("errors = \"event\""), 4, "errors: is for response = \"tokens\" and"),
        (
            route("response = \"forward\"\nerrors = \"events\""),
            5,
            "write one of \"status\", \"event\"",
        ),
        (route("response = \"tokens\"\nevents = { dune = \"\" }"), 5, "did you mean \"done\"?"),
        (route("response = \"forward\"\nevents = { done = \"\" }"), 5, "known are error, timeout"),
        (route("response = \"tokens\"\nevents = { token = \"{{json\" }"), 5, "without"),
        (route("response = \"tokens\"\nevents = { done = \"{{text}}\" }"), 5, "finish"),
        (route("response = \"tokens\"\nevents = { done = { name = \"x\" } }"), 5, "has no data"),
        (route("response = \"tokens\"\ncollect = true"), 5, "write response = \"openai\""),
        (route("dialect = \"anthropic\"\ncollect = true"), 5, "not anthropic's"),
        (route("[[route]]\npath = \"/x\""), 4, "the route of line 2 takes them all"),
    ]);
}

#[test]
fn all_faults_are_told_at_once_in_order() {
    let text = "listn = 1\n[[upstream]]\nname = \"a\"\n[[route]]\npath = \"x\"\nfoo = 1\n";
    let told = faults(text);
    let lines: Vec<&str> =
        told.lines().map(|line| line.split(' ').next().expect("a word")).collect();
    assert_eq!(
        lines,
        ["relay.toml:1:", "relay.toml:2:", "relay.toml:5:", "relay.toml:6:"],
        "{told}"
    );
}

#[test]
fn listeners_have_certificates_of_their_own() {
    let text = "upstream = \"http://a\"\n[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\n\
        address = \"127.0.0.1:2\"\ntls_cert = [\"a\", \"b\"]\ntls_key = [\"c\", \"d\"]\n";
    let shown = |text: &str, flags: &str| -> Vec<String> {
        let plan = read_with(text, flags).expect("valid");
        let listeners = plan.listeners.iter();
        listeners.map(|l| format!("{} {}", l.address.port(), l.certificates.len())).collect()
    };
    assert_eq!(shown(text, ""), ["1 0", "2 2"]);
    assert_eq!(shown(text, "--listen 127.0.0.1:3"), ["3 0"]);
    let both = format!("listen = \"127.0.0.1:4\"\ntls_cert = \"e\"\ntls_key = \"f\"\n{text}");
    assert_eq!(shown(&both, ""), ["4 1", "1 0", "2 2"]);
    assert_eq!(shown("upstream = \"http://a\"", ""), ["8080 0"]);
}

#[test]
fn variables_are_filled_in_and_can_be_written_as_they_are() {
    let plan = plan(
        "upstream = \"${UPSTREAM}/v1\"\n[[route]]\npath = \"/x\"\nset = { a = \"$${KEY} $5 ${KEY}\" }",
    );
    assert_eq!(plan.upstreams[0].endpoints[0].url(), "http://127.0.0.1:9000/v1");
    let made = plan.routes[0].body.apply(b"{}", "/x", Dialect::Generic).expect("applies");
    assert_eq!(String::from_utf8(made.body).expect("UTF-8"), "{\"a\":\"${KEY} $5 sk-1234567890\"}");
}

#[test]
fn a_key_goes_into_the_field_its_dialect_has() {
    use crate::config::plan::Key;
    let field = |key: &Key, dialect| {
        let (name, value) = key.field(dialect);
        format!("{name}: {}", value.expose())
    };
    let key = Key::new("k", None);
    assert_eq!(field(&key, Dialect::OpenAiChat), "Authorization: Bearer k");
    assert_eq!(field(&key, Dialect::DashScope), "Authorization: Bearer k");
    assert_eq!(field(&key, Dialect::Anthropic), "x-api-key: k");
    assert_eq!(field(&key, Dialect::Gemini), "x-goog-api-key: k");
    assert_eq!(field(&Key::new("k", Some("api-key")), Dialect::Gemini), "api-key: k");
    let basic = Key::new("Basic eA==", Some("Authorization"));
    assert_eq!(field(&basic, Dialect::Anthropic), "Authorization: Basic eA==");
    assert!(!format!("{key:?}").contains('k') || !format!("{key:?}").contains("\"k\""));
}
