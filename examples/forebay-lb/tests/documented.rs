//! The set-up of `docs/bare-metal.md`, from its own text, on real traffic: started, edited, drained, mistaken, ended.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    net::SocketAddr,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use common::{
    Daemon, Held, LIMIT, PATIENCE, SILENCE, looks,
    page::{Page, others},
};
use dataplane_testkit::{
    Raise,
    net::{AddressPlan, http, wait_for},
    require_kernel,
};
use serde_json::json;

#[test]
fn the_documented_set_up_serves_is_edited_and_leaves_nothing_behind() {
    require_kernel!();
    let page = Page::new("documented");
    let (balancer, [v4, _]) = (&page.topology.balancer, AddressPlan::vip(0).with_port(80));
    let before = looks(balancer);
    let daemon = Daemon::start(balancer, &page.files);
    let held = Held::by(daemon.id());
    assert!(held.programs.len() >= 3, "{held:?}");
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(daemon.get("/readyz"), (200, "ready\n".into()));
    let status = daemon.status();
    assert_eq!((&status["warnings"], &status["ready"]), (&json!([]), &json!(true)));

    let enough = AtomicBool::new(false);
    // A download slow enough to last, and ended below.
    let go_on = |_| {
        if enough.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let host = std::thread::scope(|scope| {
        // Whatever fails here, it ends.
        let _at_the_end = Raise(&enough);
        let downloading =
            scope.spawn(|| page.topology.client.run(|| http::download_while(v4, 1 << 20, SILENCE, go_on)));
        let status = daemon.wait_for_status("the download has a backend", |status| {
            page.flows(status).iter().sum::<u64>() == 1
        });
        assert_eq!(status["flows"], json!({"ipv4": 1, "ipv6": 0}));
        let host = page.flows(&status).iter().position(|flows| *flows == 1).unwrap();

        let draining =
            |a: SocketAddr| Some(format!("{{address: \"{}\", port: 8080, state: draining}}", a.ip()));
        page.files.serve(&page.edit(host, draining));
        daemon.wait_for_status("the file was read", |status| status["source"]["generation"] == 2);
        daemon.wait_for_status("it is in place", |status| status["services"][0]["status"] == "applied");
        assert_eq!(page.answers(40), others(host));
        assert_eq!(page.flows(&daemon.status())[host], 1, "the download goes on");
        enough.store(true, Ordering::Relaxed);
        assert!(downloading.join().unwrap().unwrap().bytes > 0);
        host
    });
    daemon.wait_for_status("it has drained", |status| page.flows(status)[host] == 0);
    page.files.serve(&page.edit(host, |_| None));
    daemon.wait_for_status("the file was read", |status| status["source"]["generation"] == 3);
    assert_eq!(page.answers(40), others(host));

    // A mistake changes nothing, and is told.
    page.files.serve(&page.services.replace("port: 80\n", "port: http\n"));
    let status =
        daemon.wait_for_status("the mistake is told", |status| !status["source"]["rejected"].is_null());
    let mistake = &status["source"]["rejected"]["errors"][0];
    assert_eq!((&mistake["line"], &mistake["column"]), (&json!(4), &json!(11)), "{mistake}");
    assert_eq!(mistake["field"], "services[0].port");
    assert_eq!(status["source"]["generation"], 3);
    assert_eq!(page.answers(40), others(host));
    page.files.serve(&page.services);
    daemon.wait_for_status("it is mended", |status| {
        status["source"]["rejected"].is_null() && status["source"]["generation"] == 4
    });
    assert_eq!(page.answers(60).len(), 3);
    // 180 requests, half of them over IPv4, and the download.
    daemon.wait_for_status("all flows are counted", |status| {
        let counted = &status["services"][0]["frontends"][0]["counters"];
        (&counted["flows"], &counted["drops"]) == (&json!(91), &json!(0))
    });

    let (ended, said) = daemon.terminate();
    assert_eq!(ended.code(), Some(0), "{said}");
    assert!(said.contains("services[0].port: expected a port") && !said.contains("panicked"), "{said}");
    wait_for(LIMIT, "programs and links are gone", || held.is_gone()).unwrap();
    assert_eq!(looks(balancer), before);
    page.topology.client.run(|| http::get(v4, "/name", PATIENCE)).unwrap_err();
}
