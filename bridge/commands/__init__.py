"""The subcommands of `bridge`, one a module. Each has a function of the module's name whose parameters are the options.

`dead_letters` has subcommands of its own: a package with a module for each. A module is imported when its command is used (or all of
them are listed), so `bridge check` needs neither Kafka nor Redis.
"""
