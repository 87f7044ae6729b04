//! Every type that the agent and the controller exchange.
