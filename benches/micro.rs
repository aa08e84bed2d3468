//! Micro benches of what every transfer does: framing, hashing, storing. `make microbench` runs them.

use std::path::PathBuf;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ftd::fsroot::{Options, Parents, Publish, StagingPlace, Tree};
use ftd::proto::{Header, Kind, Request, Trailer};
use ftd::types::{Durability, RelPath, Sha256Digest};
use sha2::{Digest as _, Sha256};

fn main() {
    divan::main();
}

fn header() -> Header {
    Header { kind: Kind::Data, id: 4711, payload_bytes: 512 * 1024 }
}

#[divan::bench]
fn frame_encode(bencher: Bencher) {
    bencher.counter(ItemsCount::new(1_u32)).bench(|| divan::black_box(header()).encode());
}

#[divan::bench]
fn frame_decode(bencher: Bencher) {
    let raw = header().encode();
    bencher.counter(ItemsCount::new(1_u32)).bench(|| Header::decode(divan::black_box(&raw)));
}

const REQUEST: &str = r#"{"verb":"put","path":"d001/f000123","bytes":4096,"mode":420,"mtime_ns":1700000000000000000,"replace":true}"#;

fn request(json: &str) -> Request {
    serde_json::from_str(json).expect("a request of the protocol")
}

#[divan::bench]
fn request_to_json(bencher: Bencher) {
    let request = request(REQUEST);
    bencher.bench(|| serde_json::to_vec(divan::black_box(&request)));
}

#[divan::bench]
fn request_from_json(bencher: Bencher) {
    bencher.bench(|| request(divan::black_box(REQUEST)));
}

#[divan::bench]
fn trailer_round_trip(bencher: Bencher) {
    let trailer = Trailer { bytes: 4096, sha256: Sha256Digest([7; 32]) };
    bencher.bench(|| {
        let json = serde_json::to_vec(divan::black_box(&trailer)).expect("it is plain data");
        serde_json::from_slice::<Trailer>(&json).expect("it was made just before")
    });
}

#[divan::bench(args = [4096, 512 * 1024])]
fn sha256(bencher: Bencher, bytes: usize) {
    let content = vec![7_u8; bytes];
    bencher.counter(BytesCount::new(bytes)).bench(|| Sha256::digest(divan::black_box(&content)));
}

/// A tree in a directory of its own, below `target` and not in memory: what counts is a real file system.
struct Place {
    _dir: tempfile::TempDir,
    tree: Tree,
}

fn place(durability: Durability) -> Place {
    let below = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target");
    let dir = tempfile::tempdir_in(below).expect("target/ can be written to");
    let options = Options { staging: StagingPlace::Directory, umask: 0o022, durability };
    let tree = Tree::open(dir.path(), options).expect("a directory that was just made");
    Place { _dir: dir, tree }
}

/// One file of 4 KiB from its staging to its name; every round a name of its own.
fn store(bencher: Bencher, durability: Durability) {
    let place = place(durability);
    let (content, mut number) = ([7_u8; 4096], 0_u64);
    let digest = Sha256Digest(Sha256::digest(content).into());
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        number += 1;
        let name = RelPath::parse(format!("f{number}").as_bytes()).expect("a plain name");
        let mut staging = place.tree.stage(&name).expect("there is room");
        staging.reserve(4096).expect("there is room");
        staging.write_all(&content).expect("there is room");
        staging.commit(&name, &publish(digest)).expect("the name is free")
    });
}

fn publish(digest: Sha256Digest) -> Publish {
    Publish {
        must_replace: false,
        replace: false,
        retain: None,
        parents: Parents::MustExist,
        mode: None,
        mtime_ns: None,
        digest,
        bytes: 4096,
    }
}

#[divan::bench]
fn commit_flushed(bencher: Bencher) {
    store(bencher, Durability::Full);
}

#[divan::bench]
fn commit_unflushed(bencher: Bencher) {
    store(bencher, Durability::None);
}
