"""What each setting means to the parts: translation only. Knows the configuration and every part; decides nothing."""
