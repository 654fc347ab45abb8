//! Tests of the flow table: the same files for each family.
#![allow(clippy::duplicate_mod, reason = "each family has its own types of the same names")]

mod v4;
mod v6;
