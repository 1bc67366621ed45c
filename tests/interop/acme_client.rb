# Orders a certificate with Ruby's acme-client, the period of its life too; for
# test_acme_ruby.py. Arguments: directory, trust, webroot, notBefore, notAfter, names; "-" is none.
require 'acme-client'

directory, trust, webroot, not_before, not_after, *names = ARGV
client = Acme::Client.new(
  private_key: OpenSSL::PKey::RSA.new(2048),
  directory: directory,
  connection_options: { ssl: { ca_file: trust } },
  bad_nonce_retry: 3
)
client.new_account(contact: 'mailto:a@example.com', terms_of_service_agreed: true)
wanted = { not_before: not_before, not_after: not_after }.reject { |_, value| value == '-' }
begin
  order = client.new_order(identifiers: names, **wanted)
rescue Acme::Client::Error => e
  abort "#{e.class}: #{e.message}"
end
order.authorizations.each do |authorization|
  challenge = authorization.http
  File.write(File.join(webroot, challenge.token), challenge.file_content)
  challenge.request_validation
  while %w[pending processing].include?(challenge.status)
    sleep 0.2
    challenge.reload
  end
end
csr = Acme::Client::CertificateRequest.new(
  private_key: OpenSSL::PKey::RSA.new(2048), names: names, subject: { common_name: names[0] }
)
order.finalize(csr: csr)
while order.status == 'processing'
  sleep 0.2
  order.reload
end
puts order.certificate
