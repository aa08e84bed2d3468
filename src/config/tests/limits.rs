//! Bounds of numbers, and of how much is told.

use super::*;

/// Goal: each limit takes its bounds and nothing past them.
/// Method: each bound, and the next value outside it, as the file spells them.
#[test]
fn limits_hold_at_the_bound_and_refuse_one_past_it() {
    let size = |bound: Bound<u64>| {
        [bound.min, bound.max, bound.min - 1, bound.max + 1].map(|v| (bound.key, v.to_string()))
    };
    let count = |bound: Bound<usize>| {
        [bound.min, bound.max, bound.min - 1, bound.max + 1].map(|v| (bound.key, v.to_string()))
    };
    let time = |bound: Bound<Duration>| {
        let nano = Duration::from_nanos(1);
        let below = bound.min.checked_sub(nano).map_or("-1ns".to_owned(), quantity::Quantity::show);
        [
            quantity::Quantity::show(bound.min),
            quantity::Quantity::show(bound.max),
            below,
            quantity::Quantity::show(bound.max + nano),
        ]
        .map(|v| (bound.key, format!("\"{v}\"")))
    };
    for rows in [
        size(Limits::MAX_FILE_SIZE),
        count(Limits::CONNECTIONS),
        count(Limits::CONNECTIONS_PER_USER),
        count(Limits::CONNECTIONS_PER_SOURCE),
        count(Limits::STRANGERS),
        count(Limits::STRANGERS_PER_SOURCE),
        count(Limits::REQUESTS_PER_CONNECTION),
        size(Limits::BUFFER_MEMORY),
        count(Limits::FILE_WORKERS),
        time(Limits::HANDSHAKE_TIMEOUT),
        time(Limits::IDLE_TIMEOUT),
        time(Limits::STALL_TIMEOUT),
        time(Limits::DRAIN_TIMEOUT),
    ] {
        for (index, (key, value)) in rows.iter().enumerate() {
            let room = match *key {
                "connections" => "",
                "strangers-per-source" => "strangers = 4096\n",
                _ => "connections = 65536\n",
            };
            let text = format!("{HEAD}{ALICE}[limits]\n{room}{key} = {value}\n");
            match (index < 2, read(&text)) {
                (true, Ok(_)) => {}
                (false, Err(errors)) => {
                    assert!(errors.to_string().contains("must be between"), "{errors}");
                }
                (_, other) => panic!("{key} = {value}: {other:?}"),
            }
        }
    }
    let accepted = |text: &str| read(text).is_ok();
    for (bytes, fits) in [(90, true), (91, false)] {
        let home = "h".repeat(bytes);
        assert_eq!(accepted(&format!("{HEAD}{ALICE}home = \"{home}\"")), fits, "home {bytes}");
    }
    for (bytes, fits) in [(64, true), (65, false)] {
        let text = format!("{HEAD}{ALICE}").replace("alice", &"n".repeat(bytes));
        assert_eq!(accepted(&text), fits, "name {bytes}");
    }
    for (bytes, fits) in [(107, true), (108, false)] {
        let path = format!("/{}", "s".repeat(bytes - 1));
        let text = format!("root = \"/srv/ftd\"\nlisten = [\"unix:{path}\"]\n{ALICE}");
        assert_eq!(accepted(&text), fits, "socket {bytes}");
    }
    for (bytes, fits) in [(4095, true), (4096, false)] {
        let path = format!("/{}", "r".repeat(bytes - 1));
        let text = format!("{HEAD}{ALICE}").replace("/srv/ftd", &path);
        assert_eq!(accepted(&text), fits, "root {bytes}");
    }
    for (places, fits) in [(16, true), (17, false)] {
        let list: Vec<_> = (1..=places).map(|port| format!("\"[::]:{port}\"")).collect();
        let text = format!("root = \"/srv/ftd\"\nlisten = [{}]\n{ALICE}", list.join(","));
        assert_eq!(accepted(&text), fits, "{places} places");
    }
    for (bytes, fits) in [(FILE_BYTES_MAX, true), (FILE_BYTES_MAX + 1, false)] {
        let text = format!("{HEAD}{ALICE}#");
        let text = format!("{text}{}", "x".repeat(bytes - text.len()));
        assert_eq!(accepted(&text), fits, "{bytes} bytes");
    }
}

#[test]
fn many_problems_are_counted_and_twenty_are_told() {
    let lines: Vec<_> = (0..25).map(|n| format!("unknown-{n} = 1")).collect();
    let told = told(&format!("{HEAD}{}\n{ALICE}", lines.join("\n")));
    assert_eq!(told.lines().count(), 21);
    assert!(told.starts_with("ftd.toml:3: unknown-0: unknown key"), "{told}");
    assert!(told.ends_with("\n… and 5 more"), "{told}");
}
