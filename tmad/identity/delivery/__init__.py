"""How one-time codes reach people: HTTP gateway, SMPP, smstools, mail."""
