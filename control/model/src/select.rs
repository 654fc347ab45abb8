//! Which endpoints a packet may reach (contract §2), written straight from its text.
