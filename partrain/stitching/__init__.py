"""From trained segments to one network, and what that network can do."""
