//! Flags with a few words to choose from.

use serde::Deserialize;

/// `--mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Auto,
    /// The driver hands its own buffers to us: no copy.
    ZeroCopy,
    /// Native XDP; the kernel copies each packet.
    Copy,
    /// XDP after the kernel has built an skb: works everywhere, slowest.
    Generic,
}

/// `--pod-delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    Edge,
    Direct,
}

/// `--on-stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// Nothing of ours: the node is as it was.
    #[default]
    Remove,
    /// Everything but the process: the next one takes it over.
    Keep,
}
