//! `ringway` with the real kube-apiserver and etcd. `bed.rs` has the source of objects alone; `packets.rs` the whole process with real
//! clients. They need root, and the binaries that `make test-apiserver` prepares.
#![forbid(unsafe_code)]

mod bed;
mod clock;
mod differential;
mod follow;
mod gone;
mod kept;
mod loss;
mod packets;
mod pod;
mod rights;
mod taint;
