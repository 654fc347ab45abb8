//! Stories on a real cluster: `make stories`. Each says what it has seen, beside kube-proxy's figure if the cluster was made with
//! `PROXY=kube-proxy`; of Ringway it is asked.
#![forbid(unsafe_code)]

mod bed;
mod outages;
mod removal;
mod rollouts;
