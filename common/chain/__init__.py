"""The process-chain language: rules that read a context, decide, rewrite, and end in a verb that the host interprets.

A library of its own: it knows nothing of messages or MQTT, and nothing of the rest of fieldpost. A host declares a hook
point (inputs, verbs, commands), mounts lists of chains on it, runs them, and looks at the outcome. Clock and log are
passed in.

    text -> lexer -> nodes -> scopes -> compiler -> one Python function a block -> runtime

The requirement is the design's chain-language.md (L1 to L14); docs/language.md tells users the same in their words.
"""
